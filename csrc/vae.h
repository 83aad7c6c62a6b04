// A VAE's sample and its KL divergence, forward and backward (docs/noise_contract.md, paper Eq. 6).
#pragma once

#include "noise.h"

#ifdef NMER_FAST_ISA

namespace nmer_fast::NMER_FAST_ISA {

template <class V>
struct Exp {
  V exp, expm1;
};

// exp(x) and exp(x) - 1. x = n ln 2 + r with |r| <= ln(2)/2, and exp(r) - 1 = r + r^2 P(r), where P is a minimax
// polynomial of degree 5 (absolute error 2^-34). 2^n is two factors, so that infinity and subnormals come out right.
inline Exp<F32> exp_and_expm1(F32 x) {
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
  const Exp<F32> half = exp_and_expm1(0.5f * logvar);
  return {half.exp, half.expm1 * (half.expm1 + 2.0f)};
}

// As exp_and_expm1 in float64; P has degree 9 (absolute error 2^-55).
inline Exp<F64> exp_and_expm1(F64 x) {
  static constexpr double P[] = {0x1.0000000000001p-1,  0x1.5555555555556p-3,  0x1.5555555553d63p-5,
                                 0x1.11111111109b3p-7,  0x1.6c16c1788bd90p-10, 0x1.a01a01a7c41d5p-13,
                                 0x1.a019b90d2ae7ap-16, 0x1.71de0dae63bb3p-19, 0x1.289185613a3d6p-22,
                                 0x1.af38a9b0ec855p-26};
  const F64 bounded =
      where_negative((I64)(x < -746.0), splat(-746.0), where_negative((I64)(x > 710.0), splat(710.0), x));
  const F64 shifted = fma(bounded, splat(0x1.71547652b82fep+0), splat(0x1.8p+52));
  const F64 n = shifted - 0x1.8p+52;
  const F64 r = fma(n, splat(-0x1.a39ef35793c76p-33), fma(n, splat(-0x1.62e42feep-1), bounded));
  const F64 q = fma(r * r, horner(P, r), r);
  // n + 2048, which is positive, in two parts of which each is an exponent
  const U64 whole = (U64)shifted - (0x4338000000000000 - 2048), half = whole >> 1;
  const F64 a = (F64)((half - 1) << 52), b = (F64)((whole - half - 1) << 52);
  const F64 grown = a * b, exp = fma(a, q, a) * b;
  return {exp, where_negative((I64)(n > 64.0), exp, fma(grown, q, grown - 1.0))};
}
inline Exps<F64> exps(F64 logvar) {
  const Exp<F64> half = exp_and_expm1(0.5 * logvar);
  return {half.exp, half.expm1 * (half.expm1 + 2.0)};
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

// ---------------------------------------------------------------- several short samples

// The sum of one row's terms: what LaneSum gives for them.
template <class W>
double row_sum(const W* terms, int size) {
  double sum = 0;
  if (size <= kStep) {
    for (int i = 0; i < size; ++i) sum += terms[i];
    return sum;
  }
  LaneSum lanes;
  for (int i = 0; i < size; i += kStep) {
    W rest[kStep] = {};
    const W* from = terms + i;
    if (size - i < kStep) {
      std::memcpy(rest, from, (size - i) * sizeof(W));
      from = rest;
    }
    lanes.add(from);
  }
  return lanes.total();
}

// kl has one value for each row.
template <class T>
void reparameterize_kl_rows(const Noise& noise, const ShortRows& rows, const T* mu, const T* logvar, T* z,
                            Wide<T>* kl) {
  using W = Wide<T>;
  constexpr int kWidth = kBytes / sizeof(W);
  const auto size = static_cast<int>(rows.size);
  for_row_noise<W>(noise, rows, [&](const W* eps, const Block& block) {
    alignas(64) W mu_buffer[kBlock], logvar_buffer[kBlock], z_buffer[kBlock], terms[kBlock];
    in_steps(block.n, [&](int at, int n) {
      const W* m_at = widened(mu + block.at + at, n, mu_buffer);
      const W* lv_at = widened(logvar + block.at + at, n, logvar_buffer);
      W* z_at = place(z + block.at + at, n, z_buffer);
#pragma GCC unroll 4
      for (int i = 0; i < n; i += kWidth) {
        const auto m = load(m_at + i), lv = load(lv_at + i);
        const auto e = exps(lv);
        store(z_at + i, fma(e.sigma, load(eps + at + i), m));
        store(terms + at + i, fma(m, m, e.expm1 - lv));
      }
      narrowed(z_at, n, z + block.at + at);
    });
    W* kl_at = kl + block.row;
    for (int r = 0; r < block.rows; ++r) kl_at[r] = static_cast<W>(0.5 * row_sum(terms + r * size, size));
  });
}

// grad_kl has one value for each row, which stand `stride` apart.
template <class T>
void reparameterize_kl_backward_rows(const Noise& noise, const ShortRows& rows, const T* grad_z, const Wide<T>* grad_kl,
                                     std::int64_t stride, const T* mu, const T* logvar, T* grad_mu, T* grad_logvar) {
  using W = Wide<T>;
  constexpr int kWidth = kBytes / sizeof(W);
  for_row_noise<W>(noise, rows, [&](const W* eps, const Block& block) {
    alignas(64) W gz_buffer[kBlock], mu_buffer[kBlock], logvar_buffer[kBlock], gm_buffer[kBlock], gl_buffer[kBlock];
    alignas(64) W gk_at[kBlock + kStep];
    W of_rows[kBlock];
    for (int r = 0; r < block.rows; ++r) of_rows[r] = grad_kl[(block.row + r) * stride];
    spread(of_rows, block.rows, static_cast<int>(rows.size), gk_at);
    in_steps(block.n, [&](int at, int n) {
      const W* gz_at = widened(grad_z + block.at + at, n, gz_buffer);
      const W* m_at = widened(mu + block.at + at, n, mu_buffer);
      const W* lv_at = widened(logvar + block.at + at, n, logvar_buffer);
      W* gm_at = place(grad_mu + block.at + at, n, gm_buffer);
      W* gl_at = place(grad_logvar + block.at + at, n, gl_buffer);
#pragma GCC unroll 4
      for (int i = 0; i < n; i += kWidth) {
        const auto gz = load(gz_at + i), gk = load(gk_at + at + i);
        const auto e = exps(load(lv_at + i));
        store(gm_at + i, fma(gk, load(m_at + i), gz));
        store(gl_at + i, fma(W(0.5) * gk, e.expm1, W(0.5) * gz * (e.sigma * load(eps + at + i))));
      }
      narrowed(gm_at, n, grad_mu + block.at + at);
      narrowed(gl_at, n, grad_logvar + block.at + at);
    });
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

inline void reparameterize_kl_rows(Type type, const Noise& n, const ShortRows& rows, const void* mu, const void* logvar,
                                   void* z, void* kl) {
  with_type(type, [&](auto t) {
    reparameterize_kl_rows(n, rows, in(t, mu), in(t, logvar), out(t, z), static_cast<Wide<decltype(t)>*>(kl));
  });
}

inline void reparameterize_kl_backward_rows(Type type, const Noise& n, const ShortRows& rows, const void* grad_z,
                                            const void* grad_kl, std::int64_t stride, const void* mu,
                                            const void* logvar, void* grad_mu, void* grad_logvar) {
  with_type(type, [&](auto t) {
    reparameterize_kl_backward_rows(n, rows, in(t, grad_z), static_cast<const Wide<decltype(t)>*>(grad_kl), stride,
                                    in(t, mu), in(t, logvar), out(t, grad_mu), out(t, grad_logvar));
  });
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <numeric>

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// kl [B] is double for float64, else float. The partial sums are added in the order of the tasks.
void reparameterize_kl(const auto& parallel, const auto& k, const Samples& samples, const Source& source, Index stream,
                       const void* mu, const void* logvar, void* z, void* kl) {
  const Samples s = samples.grouped();
  const Index kl_bytes = s.type == Type::float64 ? sizeof(double) : sizeof(float);
  std::vector<double> partials(s.is_short() ? 0 : s.batch * s.chunks());
  for_runs(parallel, {s}, {}, [&](Index task, const Run& run) {
    const Noise noise = source.of(run.sample, stream);
    if (s.is_short()) {
      k.reparameterize_kl_rows(s.type, noise, source.rows(s, run, {}), run.in(mu), run.in(logvar), run.in(z),
                               static_cast<char*>(kl) + run.sample * kl_bytes);
      return;
    }
    k.reparameterize_kl(s.type, noise, run.first, run.count, run.in(mu), run.in(logvar), run.in(z), &partials[task]);
  });
  for (Index b = 0; b < s.batch && !s.is_short(); ++b) {
    const auto begin = partials.begin() + b * s.chunks();
    const double sum = std::accumulate(begin, begin + s.chunks(), 0.0);
    if (s.type == Type::float64) static_cast<double*>(kl)[b] = sum;
    else static_cast<float*>(kl)[b] = static_cast<float>(sum);
  }
}

template <class GradKL>
void reparameterize_kl_backward(const auto& parallel, const auto& k, const Samples& samples, const Source& source,
                                Index stream, const void* grad_z, const PerSample<GradKL>& grad_kl, const void* mu,
                                const void* logvar, void* grad_mu, void* grad_logvar) {
  const Samples s = samples.grouped();
  for_runs(parallel, {s}, {}, [&](Index, const Run& run) {
    const Noise noise = source.of(run.sample, stream);
    if (s.is_short()) {
      k.reparameterize_kl_backward_rows(s.type, noise, source.rows(s, run, {}), run.in(grad_z),
                                        grad_kl.from(run.sample).data, grad_kl.row, run.in(mu), run.in(logvar),
                                        run.in(grad_mu), run.in(grad_logvar));
      return;
    }
    k.reparameterize_kl_backward(s.type, noise, run.first, run.count, run.in(grad_z), grad_kl(run.sample), run.in(mu),
                                 run.in(logvar), run.in(grad_mu), run.in(grad_logvar));
  });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
