// The table of one instruction set; compiled once for each, with its flags and its name in NMER_FAST_ISA.
#include "kernels.h"

#include "convolution.h"
#include "lstm.h"
#include "noise.h"
#include "vae.h"

#define NMER_FAST_TEXT_OF(name) #name
#define NMER_FAST_TEXT(name) NMER_FAST_TEXT_OF(name)

namespace nmer_fast::NMER_FAST_ISA {
namespace {

// Calls f with a value of the element type.
template <class F>
void with_type(Type type, F f) {
  switch (type) {
    case Type::float32: return f(float{});
    case Type::bfloat16: return f(BFloat16{});
    case Type::float16: return f(Half{});
    case Type::float64: return f(double{});
  }
}

template <class T>
const T* in(T, const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* out(T, void* p) {
  return static_cast<T*>(p);
}

}  // namespace

extern const Kernels table;
const Kernels table{
    NMER_FAST_TEXT(NMER_FAST_ISA),
    [](Type type, const Noise& n, std::int64_t first, std::int64_t count, void* eps) {
      with_type(type, [&](auto t) { noise(n, first, count, out(t, eps)); });
    },
    [](Type type, const Noise& n, std::int64_t first, std::int64_t count, const void* x, double alpha_bar, void* y,
       void* eps, double* sums) {
      with_type(type, [&](auto t) { add_noise(n, first, count, in(t, x), alpha_bar, out(t, y), out(t, eps), sums); });
    },
    [](Type type, std::int64_t count, const void* x, const void* eps, double alpha_bar, void* y) {
      with_type(type, [&](auto t) { mix_noise(count, in(t, x), in(t, eps), alpha_bar, out(t, y)); });
    },
    [](Type type, std::int64_t count, const void* x, double factor, void* y) {
      with_type(type, [&](auto t) { scaled(count, in(t, x), factor, out(t, y)); });
    },
    [](Type type, const Noise& n, std::int64_t first, std::int64_t count, const void* mu, const void* logvar, void* z,
       double* kl) {
      with_type(type,
                [&](auto t) { reparameterize_kl(n, first, count, in(t, mu), in(t, logvar), out(t, z), kl); });
    },
    [](Type type, const Noise& n, std::int64_t first, std::int64_t count, const void* grad_z, double grad_kl,
       const void* mu, const void* logvar, void* grad_mu, void* grad_logvar) {
      with_type(type, [&](auto t) {
        reparameterize_kl_backward(n, first, count, in(t, grad_z), grad_kl, in(t, mu), in(t, logvar),
                                   out(t, grad_mu), out(t, grad_logvar));
      });
    },
    panel_of,
    pack_columns,
    product,
    lstm,
    lstm_backward,
    conv_max_pool,
    conv_max_pool_backward,
    kVectorsAcross * kLanes,
};

}  // namespace nmer_fast::NMER_FAST_ISA
