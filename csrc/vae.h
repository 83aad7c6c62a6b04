// A VAE's sample and its KL divergence, forward and backward (docs/noise_contract.md, paper Eq. 6).
#pragma once

#include "noise.h"

namespace nmer_fast::NMER_FAST_ISA {

struct Exp {
  F32 exp, expm1;
};

// exp(x) and exp(x) - 1: x = n ln 2 + r with |r| <= ln(2)/2, exp(r) - 1 = r + r^2 P(r), P minimax of degree 5
// (absolute error 2^-34). The two factors of 2^n keep infinity and subnormals right.
inline Exp exp_and_expm1(F32 x) {
  static constexpr float P[] = {0.5f,           0x1.555556p-3f, 0x1.55548p-5f,
                                0x1.11107ep-7f, 0x1.6d967p-10f, 0x1.a1b7e4p-13f};
  const F32 bounded = where_negative((I32)(x < -104.0f), splat(-104.0f), where_negative((I32)(x > 89.0f), splat(89.0f), x));
  const F32 shifted = fma(bounded, splat(0x1.715476p+0f), splat(0x1.8p+23f));  // rounds x / ln 2 to nearest
  const F32 n = shifted - 0x1.8p+23f;
  const F32 r = fma(n, splat(-0x1.7f7d1cp-20f), fma(n, splat(-0x1.62e4p-1f), bounded));
  const F32 q = fma(r * r, horner(P, r), r);
  const I32 whole = (I32)shifted - 0x4B400000, half = whole >> 1;
  const F32 a = (F32)((half + 127) << 23), b = (F32)((whole - half + 127) << 23);
  const F32 grown = a * b, exp = fma(a, q, a) * b;
  return {exp, where_negative((I32)(n > 32.0f), exp, fma(grown, q, grown - 1.0f))};  // beyond 2^32 the 1 is lost
}

// sigma = exp(lv / 2) and expm1 = exp(lv) - 1 of n elements; the arrays hold whole vectors. exp(lv) - 1 is d (d + 2) for
// d = exp(lv / 2) - 1, which cancels nowhere, so one exponential gives both.
inline void exps(float* sigma, float* expm1, const auto* logvar, int n) {
  for (int i = 0; i < n; ++i) sigma[i] = 0.5f * widen(logvar[i]);
  for (int i = n; i % kLanes != 0; ++i) sigma[i] = 0;
  for (int i = 0; i < n; i += kLanes) {
    F32 half;
    __builtin_memcpy(&half, sigma + i, kBytes);
    const Exp e = exp_and_expm1(half);
    store(sigma + i, e.exp);
    store(expm1 + i, e.expm1 * (e.expm1 + 2.0f));
  }
}
inline void exps(double* sigma, double* expm1, const double* logvar, int n) {
  for (int i = 0; i < n; ++i) {
    sigma[i] = std::exp(logvar[i] / 2);
    expm1[i] = std::expm1(logvar[i]);
  }
}

// z = mu + sigma eps; kl += 1/2 sum(mu^2 + (exp(lv) - 1 - lv)).
template <class T>
void reparameterize_kl(const Noise& noise, std::int64_t first, std::int64_t count, const T* mu, const T* logvar, T* z,
                       double* kl) {
  using W = Wide<T>;
  double sums[8] = {};
  for_blocks<W>(noise, first, count, [&](const W* eps, std::int64_t at, int n) {
    alignas(64) W sigma[kBlock], expm1[kBlock];
    exps(sigma, expm1, logvar + at, n);
    for (int i = 0; i < n; ++i) z[at + i] = narrow<T>(multiply_add(sigma[i], eps[i], widen(mu[at + i])));
    int i = 0;
    const auto term = [&](int j) {
      const W m = widen(mu[at + j]);
      return double(m * m + (expm1[j] - widen(logvar[at + j])));
    };
    for (; i + 8 <= n; i += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += term(i + j);
    }
    for (; i < n; ++i) sums[i % 8] += term(i);
  });
  for (const double sum : sums) *kl += 0.5 * sum;
}

// grad_mu = gz + gk mu; grad_logvar = 1/2 (gz sigma eps + gk (exp(lv) - 1)). eps is made again.
template <class T>
void reparameterize_kl_backward(const Noise& noise, std::int64_t first, std::int64_t count, const T* grad_z,
                                double grad_kl, const T* mu, const T* logvar, T* grad_mu, T* grad_logvar) {
  using W = Wide<T>;
  const auto gk = static_cast<W>(grad_kl);
  for_blocks<W>(noise, first, count, [=](const W* eps, std::int64_t at, int n) {
    alignas(64) W sigma[kBlock], expm1[kBlock];
    exps(sigma, expm1, logvar + at, n);
    for (int i = 0; i < n; ++i) {
      const W gz = widen(grad_z[at + i]);
      grad_mu[at + i] = narrow<T>(gz + gk * widen(mu[at + i]));
      grad_logvar[at + i] = narrow<T>(W(0.5) * (gz * (sigma[i] * eps[i]) + gk * expm1[i]));
    }
  });
}

}  // namespace nmer_fast::NMER_FAST_ISA
