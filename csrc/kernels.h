// The kernels as the bindings see them: one table of functions for each instruction set, chosen at run time.
//
// The noise's functions work on `count` consecutive elements of one sample, from element `first` on, a multiple of 4.
#pragma once

#include <cstdint>
#include <vector>

namespace nmer_fast {

// Raised with INTERFACE in nmer_fast/ops/_library.py when an op's arguments change, so that an older build is not used.
inline constexpr int kInterface = 4;

enum class Kind { gaussian, impulse, uniform, laplace };
enum class Type { float32, bfloat16, float16, float64 };

// What decides a sample's noise.
struct Noise {
  std::uint64_t seed;
  std::uint32_t draw;
  std::uint32_t stream;
  std::uint64_t sample;
  Kind kind;
  std::uint32_t threshold;  // of impulses: ceil(p 2^31)

  std::int32_t last() const { return static_cast<std::int32_t>(threshold - 1); }
};

// A matrix product with a bias for each column, a multiple of 16; one factor packed by pack_columns.
struct Product {
  int depth, columns;
  const float* a;       // [rows, depth]
  const float* panels;  // of [columns, depth]
  const float* bias;
  float* out;  // [rows, columns]
};

// Sequences end to end, as lstm.h says; encoders beside each other read the same input.
struct Lstm {
  int encoders, width;
  const std::int64_t* lengths;  // of samples
  const std::int64_t* starts;   // rows
  const float* weight_hh;       // [encoders, 4 width, width], gates in the order i, f, g, o
  float* gates;                 // [rows, encoders, 4 width]: what the inputs give; afterwards the gates
  float* hidden;                // [rows, encoders, width]
  float* cell;
  float* pooled;                // [samples, encoders, width]
  std::int64_t* argmax;
};
struct LstmBackward {
  int encoders, width;
  const std::int64_t* lengths;
  const std::int64_t* starts;
  const float* weight_hh;
  const float* gates;
  const float* cell;
  const float* grad;           // of pooled, or without argmax of hidden: [rows, encoders, width], row s + t of step t
  const std::int64_t* argmax;  // or null
  float* d_gates;  // before their activations; zero in the unused row of each sample
};
// Convolutions over time, as convolution.h says.
struct Convolution {
  int kernels, encoders, filters, dims;
  const int* sizes;  // of the kernels, at most kLongestKernel
  const std::int64_t* lengths;
  const std::int64_t* starts;
  const float* inputs;  // [rows, dims]
  const float* panels;  // of each tap of each kernel, by pack_columns
  const float* biases;  // [kernels, encoders, filters]
  float* pooled;        // [samples, encoders, kernels, filters]
  std::int64_t* argmax;
};
struct ConvolutionBackward {
  int kernels, columns, samples, dims;
  std::int64_t rows;
  const int* sizes;
  const float* inputs;       // [rows, dims]
  const std::int64_t* wins;  // [kernels, columns, samples]
  const float* grads;
  float* const* grad_weights;  // of each kernel [columns, size, dims]
};
inline constexpr int kLongestKernel = 5;

inline constexpr int kGroup = 32;  // samples at most that one call takes, the longest first

struct Kernels {
  const char* isa;
  void (*noise)(Type, const Noise&, std::int64_t first, std::int64_t count, void* eps);
  // eps may be null; so may sums: of x, x^2 and eps^2, added to.
  void (*add_noise)(Type, const Noise&, std::int64_t first, std::int64_t count, const void* x, double alpha_bar,
                    void* y, void* eps, double* sums);
  void (*mix_noise)(Type, std::int64_t count, const void* x, const void* eps, double alpha_bar, void* y);
  void (*scaled)(Type, std::int64_t count, const void* x, double factor, void* y);
  // kl is added to.
  void (*reparameterize_kl)(Type, const Noise&, std::int64_t first, std::int64_t count, const void* mu,
                            const void* logvar, void* z, double* kl);
  void (*reparameterize_kl_backward)(Type, const Noise&, std::int64_t first, std::int64_t count, const void* grad_z,
                                     double grad_kl, const void* mu, const void* logvar, void* grad_mu,
                                     void* grad_logvar);
  // Columns of a panel; panels of one tap of [columns, size, dims]; some rows and one panel of a product.
  int (*panel_of)(int columns);
  void (*pack_columns)(const float* weight, int columns, int size, int tap, int dims, float* panels);
  void (*product)(const Product&, int begin, int end, int panel);
  // One encoder, over a group of samples.
  void (*lstm)(const Lstm&, int encoder, const int* samples, int count);
  void (*lstm_backward)(const LstmBackward&, int encoder, const int* samples, int count);
  // A panel's columns of some samples; one part of the input dimensions, of `conv_part` each.
  void (*conv_max_pool)(const Convolution&, int begin, int end, int panel);
  void (*conv_max_pool_backward)(const ConvolutionBackward&, int part);
  int conv_part;
};

// Every table that this machine can run, the best one last.
const std::vector<const Kernels*>& all_kernels();

// The table in use: the best one, unless use_kernels chose another.
const Kernels& kernels();

// Whether this machine has a table of that name, which is then in use.
bool use_kernels(const char* isa);

}  // namespace nmer_fast
