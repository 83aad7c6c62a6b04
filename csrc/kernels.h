// The kernels as the bindings see them: one table of functions for each instruction set, chosen at run time.
//
// A family of ops is one header (noise.h, vae.h, product.h, lstm.h, convolution.h) of up to three parts: the structs
// that its kernels take; the kernels, which kernels.cpp compiles once for each instruction set (NMER_FAST_ISA); and the
// ops on whole batches, which the bindings call and which call the kernels of a table. Nothing here knows torch or
// Python.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "lstm.h"
#include "noise.h"
#include "product.h"
#include "vae.h"

namespace nmer_fast {

// Raised with INTERFACE in nmer_fast/ops/_library.py when an op's arguments change, so that an older build is not used.
inline constexpr int kInterface = 4;

// The list of all kernels: struct Kernels and the table of each instruction set are made from it. The noise kernels
// work on `count` consecutive elements of one sample, from element `first` on, which is a multiple of 4.
#define NMER_FAST_KERNELS(KERNEL)                                                                                      \
  KERNEL(void, noise, (Type, const Noise&, std::int64_t first, std::int64_t count, void* eps))                         \
  /* eps may be null; so may sums: x, x^2 and eps^2 are added to them. */                                              \
  KERNEL(void, add_noise,                                                                                              \
         (Type, const Noise&, std::int64_t first, std::int64_t count, const void* x, double alpha_bar, void* y,        \
          void* eps, double* sums))                                                                                    \
  KERNEL(void, mix_noise, (Type, std::int64_t count, const void* x, const void* eps, double alpha_bar, void* y))       \
  /* x times the root of `square`. */                                                                                  \
  KERNEL(void, scaled, (Type, std::int64_t count, const void* x, double square, void* y))                              \
  /* The same for several short samples, of which each may have its own values; noise.sample is not used. */           \
  KERNEL(void, noise_rows, (Type, const Noise&, const ShortRows&, void* eps))                                          \
  KERNEL(void, add_noise_rows,                                                                                         \
         (Type, const Noise&, const ShortRows&, const void* x, const PerSample<double>& alpha_bar, void* y, void* eps, \
          double* sums))                                                                                               \
  KERNEL(void, mix_noise_rows,                                                                                         \
         (Type, const ShortRows&, const void* x, const void* eps, const PerSample<double>& alpha_bar, void* y))        \
  KERNEL(void, mix_noise_backward_rows,                                                                                \
         (Type, const ShortRows&, const void* grad, const PerSample<double>& alpha_bar, bool wrt_noise, void* out))    \
  /* The divergence is added to kl. */                                                                                 \
  KERNEL(void, reparameterize_kl,                                                                                      \
         (Type, const Noise&, std::int64_t first, std::int64_t count, const void* mu, const void* logvar, void* z,     \
          double* kl))                                                                                                 \
  KERNEL(void, reparameterize_kl_backward,                                                                             \
         (Type, const Noise&, std::int64_t first, std::int64_t count, const void* grad_z, double grad_kl,              \
          const void* mu, const void* logvar, void* grad_mu, void* grad_logvar))                                       \
  KERNEL(void, reparameterize_kl_rows,                                                                                 \
         (Type, const Noise&, const ShortRows&, const void* mu, const void* logvar, void* z, void* kl))                \
  KERNEL(void, reparameterize_kl_backward_rows,                                                                        \
         (Type, const Noise&, const ShortRows&, const void* grad_z, const void* grad_kl, std::int64_t stride,          \
          const void* mu, const void* logvar, void* grad_mu, void* grad_logvar))                                       \
  /* Columns of a panel; the panels of one tap of [columns, size, dims]; some rows and one panel of a product. */      \
  KERNEL(int, panel_of, (int columns))                                                                                 \
  KERNEL(void, pack_columns, (const float* weight, int columns, int size, int tap, int dims, float* panels))           \
  KERNEL(void, product, (const Product&, int begin, int end, int panel))                                               \
  /* One encoder, over a group of samples. */                                                                          \
  KERNEL(void, lstm, (const Lstm&, int encoder, const int* samples, int count))                                        \
  KERNEL(void, lstm_backward, (const LstmBackward&, int encoder, const int* samples, int count))                       \
  /* One panel's columns of some samples; one part of the input dimensions, and how many of them a part has. */        \
  KERNEL(void, conv_max_pool, (const Convolution&, int begin, int end, int panel))                                     \
  KERNEL(void, conv_max_pool_backward, (const ConvolutionBackward&, int part))                                         \
  KERNEL(int, conv_part, ())

struct Kernels {
  const char* isa;
#define NMER_FAST_FIELD(result, name, arguments) result(*name) arguments;
  NMER_FAST_KERNELS(NMER_FAST_FIELD)
#undef NMER_FAST_FIELD
};

// Every table that this machine can run, the best one last.
const std::vector<const Kernels*>& all_kernels();

// The table in use: the best one, unless use_kernels chose another.
const Kernels& kernels();

// Whether this machine has a table of that name, which is then in use.
bool use_kernels(const char* isa);

}  // namespace nmer_fast
