// A VAE's sample and its KL divergence, forward and backward (docs/noise_contract.md, paper Eq. 6).
#pragma once

#include "noise.h"

#ifdef NMER_FAST_ISA

namespace nmer_fast::NMER_FAST_ISA {

struct Exp {
  F32 exp, expm1;
};

// exp(x) and exp(x) - 1. x = n ln 2 + r with |r| <= ln(2)/2, and exp(r) - 1 = r + r^2 P(r), where P is a minimax
// polynomial of degree 5 (absolute error 2^-34). 2^n is two factors, so that infinity and subnormals come out right.
inline Exp exp_and_expm1(F32 x) {
  static constexpr float P[] = {0.5f, 0x1.555556p-3f, 0x1.55548p-5f, 0x1.11107ep-7f, 0x1.6d967p-10f, 0x1.a1b7e4p-13f};
  const F32 bounded =
      where_negative((I32)(x < -104.0f), splat(-104.0f), where_negative((I32)(x > 89.0f), splat(89.0f), x));
  const F32 shifted = fma(bounded, splat(0x1.715476p+0f), splat(0x1.8p+23f));  // rounds x / ln 2 to nearest
  const F32 n = shifted - 0x1.8p+23f;
  const F32 r = fma(n, splat(-0x1.7f7d1cp-20f), fma(n, splat(-0x1.62e4p-1f), bounded));
  const F32 q = fma(r * r, horner(P, r), r);
  const I32 whole = (I32)shifted - 0x4B400000, half = whole >> 1;
  const F32 a = (F32)((half + 127) << 23), b = (F32)((whole - half + 127) << 23);
  const F32 grown = a * b, exp = fma(a, q, a) * b;
  return {exp, where_negative((I32)(n > 32.0f), exp, fma(grown, q, grown - 1.0f))};  // beyond 2^32 the 1 is lost
}

// sigma = exp(lv / 2) and expm1 = exp(lv) - 1. With d = exp(lv / 2) - 1, expm1 = d (d + 2), which does not cancel, so
// one exponential gives both.
template <class V>
struct Exps {
  V sigma, expm1;
};
inline Exps<F32> exps(F32 logvar) {
  const Exp half = exp_and_expm1(0.5f * logvar);
  return {half.exp, half.expm1 * (half.expm1 + 2.0f)};
}
inline Exps<F64> exps(F64 logvar) {
  Exps<F64> out;
  for (int i = 0; i < kBytes / 8; ++i) {
    out.sigma[i] = std::exp(logvar[i] / 2);
    out.expm1[i] = std::expm1(logvar[i]);
  }
  return out;
}

// z = mu + sigma eps; kl += 1/2 sum(mu^2 + (exp(lv) - 1 - lv)). The zeros after the end of a step add nothing.
template <class T>
void reparameterize_kl(const Noise& noise, std::int64_t first, std::int64_t count, const T* mu, const T* logvar, T* z,
                       double* kl) {
  using W = Wide<T>;
  constexpr int kWidth = kBytes / sizeof(W);
  LaneSum sum;
  for_blocks<W>(noise, first, count, [&](const W* eps, std::int64_t at, int n) {
    alignas(64) W mu_buffer[kBlock], logvar_buffer[kBlock], z_buffer[kBlock], terms[kStep];
    const W* m_at = widened(mu + at, n, mu_buffer);
    const W* lv_at = widened(logvar + at, n, logvar_buffer);
    W* z_at = place(z + at, n, z_buffer);
    LaneSum block = sum;  // a copy, so that it stays in registers
    for (int i = 0; i < n; i += kStep) {
#pragma GCC unroll 8
      for (int j = 0; j < kStep; j += kWidth) {
        const auto m = load(m_at + i + j), lv = load(lv_at + i + j);
        const auto e = exps(lv);
        store(z_at + i + j, fma(e.sigma, load(eps + i + j), m));
        store(terms + j, fma(m, m, e.expm1 - lv));
      }
#pragma GCC unroll 8
      for (int part = 0; part < LaneSum::kParts; ++part) block.add(load_double(terms + part * LaneSum::kWidth), part);
    }
    sum = block;
    narrowed(z_at, n, z + at);
  });
  *kl += 0.5 * sum.total();
}

// grad_mu = gz + gk mu; grad_logvar = 1/2 (gz sigma eps + gk (exp(lv) - 1)). eps is generated again.
template <class T>
void reparameterize_kl_backward(const Noise& noise, std::int64_t first, std::int64_t count, const T* grad_z,
                                double grad_kl, const T* mu, const T* logvar, T* grad_mu, T* grad_logvar) {
  using W = Wide<T>;
  constexpr int kWidth = kBytes / sizeof(W);
  const auto gk = splat(static_cast<W>(grad_kl)), half_gk = splat(static_cast<W>(0.5 * grad_kl));
  for_blocks<W>(noise, first, count, [=](const W* eps, std::int64_t at, int n) {
    alignas(64) W gz_buffer[kBlock], mu_buffer[kBlock], logvar_buffer[kBlock], gm_buffer[kBlock], gl_buffer[kBlock];
    const W* gz_at = widened(grad_z + at, n, gz_buffer);
    const W* m_at = widened(mu + at, n, mu_buffer);
    const W* lv_at = widened(logvar + at, n, logvar_buffer);
    W* gm_at = place(grad_mu + at, n, gm_buffer);
    W* gl_at = place(grad_logvar + at, n, gl_buffer);
#pragma GCC unroll 4
    for (int i = 0; i < n; i += kWidth) {
      const auto gz = load(gz_at + i);
      const auto e = exps(load(lv_at + i));
      store(gm_at + i, fma(gk, load(m_at + i), gz));
      store(gl_at + i, fma(half_gk, e.expm1, W(0.5) * gz * (e.sigma * load(eps + i))));
    }
    narrowed(gm_at, n, grad_mu + at);
    narrowed(gl_at, n, grad_logvar + at);
  });
}

// ---------------------------------------------------------------- kernels for an element type known at run time

inline void reparameterize_kl(Type type, const Noise& n, std::int64_t first, std::int64_t count, const void* mu,
                              const void* logvar, void* z, double* kl) {
  with_type(type, [&](auto t) { reparameterize_kl(n, first, count, in(t, mu), in(t, logvar), out(t, z), kl); });
}

inline void reparameterize_kl_backward(Type type, const Noise& n, std::int64_t first, std::int64_t count,
                                       const void* grad_z, double grad_kl, const void* mu, const void* logvar,
                                       void* grad_mu, void* grad_logvar) {
  with_type(type, [&](auto t) {
    reparameterize_kl_backward(n, first, count, in(t, grad_z), grad_kl, in(t, mu), in(t, logvar), out(t, grad_mu),
                               out(t, grad_logvar));
  });
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <numeric>

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// kl [B] is double for float64, else float. The partial sums are added in the order of the tasks.
void reparameterize_kl(const auto& parallel, const auto& k, const Samples& s, const Source& source, Index stream,
                       const void* mu, const void* logvar, void* z, void* kl) {
  std::vector<double> partials(s.batch * s.chunks());
  for_runs(parallel, {s}, {}, [&](Index task, const Run& run) {
    k.reparameterize_kl(s.type, source.of(run.sample, stream), run.first, run.count, run.in(mu), run.in(logvar),
                        run.in(z), &partials[task]);
  });
  for (Index b = 0; b < s.batch; ++b) {
    const auto begin = partials.begin() + b * s.chunks();
    const double sum = std::accumulate(begin, begin + s.chunks(), 0.0);
    if (s.type == Type::float64) static_cast<double*>(kl)[b] = sum;
    else static_cast<float*>(kl)[b] = static_cast<float>(sum);
  }
}

template <class GradKL>
void reparameterize_kl_backward(const auto& parallel, const auto& k, const Samples& s, const Source& source,
                                Index stream, const void* grad_z, const PerSample<GradKL>& grad_kl, const void* mu,
                                const void* logvar, void* grad_mu, void* grad_logvar) {
  for_runs(parallel, {s}, {}, [&](Index, const Run& run) {
    k.reparameterize_kl_backward(s.type, source.of(run.sample, stream), run.first, run.count, run.in(grad_z),
                                 grad_kl(run.sample), run.in(mu), run.in(logvar), run.in(grad_mu), run.in(grad_logvar));
  });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
