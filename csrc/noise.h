// Noise of one sample's consecutive elements, made and mixed block by block: eps lives in a buffer of the first-level
// cache and never in memory. docs/noise_contract.md says what a value is.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "dtypes.h"
#include "gaussian.h"
#include "kernels.h"
#include "philox_simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr int kBlock = 512;  // elements; a multiple of what a call of a generator makes on every ISA
inline constexpr int kGroups = 2;   // Philox vectors in flight at a time: a multiplication takes some cycles

// eps of elements first to first + n - 1, float32, and of some more that fit the block; first is a multiple of 4.
template <class Transform>
void generate(const QuadStream& stream, const Transform& transform, std::int64_t first, int n, float* eps) {
  const auto quad = static_cast<std::uint64_t>(first) / 4;
  for (int i = 0; i < n; i += kGroups * 4 * kQuads) {
    U64 words[kGroups][4];
    stream(quad + i / 4, words);
    for (int g = 0; g < kGroups; ++g) transform(words[g], eps + i + g * 4 * kQuads);
  }
}

inline void generate(const QuadStream& stream, const Noise& noise, std::int64_t first, int n, float* eps) {
  switch (noise.kind) {
    case Kind::gaussian: return generate(stream, Gaussian{}, first, n, eps);
    case Kind::impulse: return generate(stream, ByWord{Impulse{noise.last()}}, first, n, eps);
    case Kind::uniform: return generate(stream, ByWord{Uniform{}}, first, n, eps);
    case Kind::laplace: return generate(stream, ByWord{Laplace{}}, first, n, eps);
  }
}

// The float64 definition, for float64 features: the u is float32's, all else is libm's.
inline double unit64(std::uint32_t w, int bits) {
  const float scale = std::ldexp(1.0f, -bits);
  const float product = static_cast<float>(w) * scale;
  return product + scale / 2;
}

inline double one_word64(const Noise& noise, std::uint32_t w) {
  const double sign = w & 1 ? 1 : -1;
  if (noise.kind == Kind::impulse) return static_cast<std::int32_t>(w >> 1) <= noise.last() ? sign : 0.0;
  if (noise.kind == Kind::uniform) return std::numbers::sqrt3 * (2 * unit64(w, 32) - 1);
  return sign * -std::log(unit64(w >> 1, 31)) / std::numbers::sqrt2;
}

inline void generate(const QuadStream&, const Noise& noise, std::int64_t first, int n, double* eps) {
  for (int i = 0; i < n; i += 4) {
    const auto quad = static_cast<std::uint32_t>((first + i) / 4);
    const Words w = philox(sample_counter(quad, noise.sample, noise.stream, noise.draw), noise.seed);
    if (noise.kind != Kind::gaussian) {
      for (int j = 0; j < 4; ++j) eps[i + j] = one_word64(noise, w[j]);
      continue;
    }
    for (int j = 0; j < 4; j += 2) {
      const double r = std::sqrt(-2 * std::log(unit64(w[j], 32)));
      const double angle = static_cast<std::int32_t>(w[j + 1]) * (std::numbers::pi / 0x1p31);
      eps[i + j] = r * std::cos(angle);
      eps[i + j + 1] = r * std::sin(angle);
    }
  }
}

inline QuadStream stream_of(const Noise& noise) { return {noise.seed, noise.draw, noise.stream, noise.sample}; }

// Calls body(eps, offset, n) for each block of a run of count elements from `first` on.
template <class Float, class Body>
void for_blocks(const Noise& noise, std::int64_t first, std::int64_t count, Body body) {
  const QuadStream stream = stream_of(noise);
  alignas(64) Float eps[kBlock];
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - done));
    generate(stream, noise, first + done, n, eps);
    body(static_cast<const Float*>(eps), done, n);
  }
}

// eps alone.
template <class T>
void noise(const Noise& noise, std::int64_t first, std::int64_t count, T* out) {
  for_blocks<Wide<T>>(noise, first, count, [=](const Wide<T>* eps, std::int64_t at, int n) {
    for (int i = 0; i < n; ++i) out[at + i] = narrow<T>(eps[i]);
  });
}

// A factor of 0 or more, and what float32 loses of it, so that a product with it rounds once. The two have one sign, and
// only a factor of 0 has parts that are 0: an infinite x stays infinite.
template <class W>
class Factor {
 public:
  explicit Factor(double value) : high_(static_cast<W>(value)) {
    if (high_ > value) high_ = std::nextafter(high_, W{});
    low_ = std::max(static_cast<W>(value - high_), high_ * W(0x1p-60));
  }
  W times(W x, W plus) const {
    if constexpr (sizeof(W) == 8) return multiply_add(high_, x, plus);
    return multiply_add(high_, x, multiply_add(low_, x, plus));
  }

 private:
  W high_, low_;
};

// y = keep x + scale eps: eps has its own error, so scale needs no second part.
template <class W>
struct Mix {
  Factor<W> keep;
  W scale;
  explicit Mix(double alpha_bar) : keep(std::sqrt(alpha_bar)), scale(static_cast<W>(std::sqrt(1 - alpha_bar))) {}
  W operator()(W x, W eps) const { return keep.times(x, scale * eps); }
};

// Count is the caller's; sums of x, x^2 and eps^2, in double, over eight lanes that are added in order.
class Sums {
 public:
  template <class T>
  void add(const T* x, const Wide<T>* eps, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
      for (int j = 0; j < 8; ++j) add(widen(x[i + j]), eps[i + j], j);
    }
    for (; i < n; ++i) add(widen(x[i]), eps[i], i % 8);
  }
  void to(double* out) const {
    for (int j = 0; j < 8; ++j) {
      out[0] += x_[j];
      out[1] += squares_[j];
      out[2] += eps_squares_[j];
    }
  }

 private:
  void add(double x, double eps, int lane) {
    x_[lane] += x;
    squares_[lane] += x * x;
    eps_squares_[lane] += eps * eps;
  }
  double x_[8] = {}, squares_[8] = {}, eps_squares_[8] = {};
};

// Eq. 3 with noise made on the way; eps and sums where asked for.
template <class T>
void add_noise(const Noise& noise, std::int64_t first, std::int64_t count, const T* x, double alpha_bar, T* y,
               T* eps_out, double* sums_out) {
  const Mix<Wide<T>> mix(alpha_bar);
  Sums sums;
  for_blocks<Wide<T>>(noise, first, count, [&](const Wide<T>* eps, std::int64_t at, int n) {
    const T* from = x + at;
    T* to = y + at;
    for (int i = 0; i < n; ++i) to[i] = narrow<T>(mix(widen(from[i]), eps[i]));
    if (eps_out != nullptr) {
      for (int i = 0; i < n; ++i) eps_out[at + i] = narrow<T>(eps[i]);
    }
    if (sums_out != nullptr) sums.add(from, eps, n);
  });
  if (sums_out != nullptr) sums.to(sums_out);
}

// Eq. 3 with given noise.
template <class T>
void mix_noise(std::int64_t count, const T* x, const T* eps, double alpha_bar, T* y) {
  const Mix<Wide<T>> mix(alpha_bar);
  for (std::int64_t i = 0; i < count; ++i) y[i] = narrow<T>(mix(widen(x[i]), widen(eps[i])));
}

// Its gradient: one scaling.
template <class T>
void scaled(std::int64_t count, const T* x, double factor, T* y) {
  const Factor<Wide<T>> by(factor);
  for (std::int64_t i = 0; i < count; ++i) y[i] = narrow<T>(by.times(widen(x[i]), -Wide<T>{0}));  // -0 adds nothing, to -0 neither
}

}  // namespace nmer_fast::NMER_FAST_ISA
