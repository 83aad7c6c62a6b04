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
inline constexpr int kGroups = 4;   // Philox vectors in flight at a time: a multiplication takes some cycles

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

// Calls body(eps, offset, n) for each block of a run of count elements from `first` on; eps is 0 from n to the step's end.
template <class Float, class Body>
void for_blocks(const Noise& noise, std::int64_t first, std::int64_t count, Body body) {
  const QuadStream stream(noise.seed, noise.draw, noise.stream, noise.sample);
  alignas(64) Float eps[kBlock];
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - done));
    generate(stream, noise, first + done, n, eps);
    for (int i = n; i % kStep != 0; ++i) eps[i] = 0;
    body(static_cast<const Float*>(eps), done, n);
  }
}

// eps alone.
template <class T>
void noise(const Noise& noise, std::int64_t first, std::int64_t count, T* out) {
  for_blocks<Wide<T>>(noise, first, count, [=](const Wide<T>* eps, std::int64_t at, int n) { narrowed(eps, n, out + at); });
}

// A factor of 0 or more, and what float32 loses of it, so that a product with it rounds once. The two have one sign, and
// only of a factor that float32 takes for 0 are both 0: an infinite x stays infinite.
template <class Float>
class Factor {
 public:
  explicit Factor(double value) {
    auto high = static_cast<Float>(value);
    if (high > value) high = std::nextafter(high, Float{});
    high_ = splat(high);
    low_ = splat(std::max(static_cast<Float>(value - high), high * Float(0x1p-60)));
  }
  Vector<Float> times(Vector<Float> x, Vector<Float> plus) const {
    if constexpr (sizeof(Float) == 8) return fma(high_, x, plus);
    return fma(high_, x, fma(low_, x, plus));
  }

 private:
  Vector<Float> high_, low_;
};

// y = keep x + scale eps: eps has its own error, so scale needs no second part.
template <class Float>
struct Mix {
  Factor<Float> keep;
  Vector<Float> scale;
  explicit Mix(double alpha_bar)
      : keep(std::sqrt(alpha_bar)), scale(splat(static_cast<Float>(std::sqrt(1 - alpha_bar)))) {}
  void operator()(const Float* x, const Float* eps, int n, Float* y) const {
    constexpr int kWidth = kBytes / sizeof(Float);
    for (int i = 0; i < n; i += kWidth) store(y + i, keep.times(load(x + i), scale * load(eps + i)));
  }
};

// A sum in double over a step's lanes, which are added in order at the end: one result on every instruction set.
class LaneSum {
 public:
  static constexpr int kWidth = kBytes / 8, kParts = kStep / kWidth;
  void add(F64 x, int part) { parts_[part] += x; }
  double total() const {
    double sum = 0;
    for (const F64& part : parts_) {
      for (int i = 0; i < kWidth; ++i) sum += part[i];
    }
    return sum;
  }

 private:
  F64 parts_[kParts] = {};
};

// Sums of x, x^2 and eps^2.
class Sums {
 public:
  template <class Float>
  void add(const Float* x, const Float* eps, int n) {
    LaneSum sum = x_, squares = squares_, eps_squares = eps_squares_;  // registers, not *this
    for (int i = 0; i < n; i += kStep) {
#pragma GCC unroll 8
      for (int part = 0; part < LaneSum::kParts; ++part) {
        const F64 a = load_double(x + i + part * LaneSum::kWidth), e = load_double(eps + i + part * LaneSum::kWidth);
        sum.add(a, part);
        squares.add(a * a, part);
        eps_squares.add(e * e, part);
      }
    }
    x_ = sum, squares_ = squares, eps_squares_ = eps_squares;
  }
  void to(double* out) const {
    out[0] += x_.total();
    out[1] += squares_.total();
    out[2] += eps_squares_.total();
  }

 private:
  LaneSum x_, squares_, eps_squares_;
};

// The next block's lines, to arrive while its noise is made: 16-bit results, narrowed in short bursts, else wait for them.
template <class T>
void prefetch_for_writing(const T* to) {
  for (int i = 0; i < kBlock; i += 64 / sizeof(T)) __builtin_prefetch(to + i, 1);
}

// Eq. 3 with noise made on the way; eps and sums where asked for.
template <class T>
void add_noise(const Noise& noise, std::int64_t first, std::int64_t count, const T* x, double alpha_bar, T* y,
               T* eps_out, double* sums_out) {
  const Mix<Wide<T>> mix(alpha_bar);
  Sums sums;
  for_blocks<Wide<T>>(noise, first, count, [&](const Wide<T>* eps, std::int64_t at, int n) {
    alignas(64) Wide<T> x_buffer[kBlock], y_buffer[kBlock];
    const Wide<T>* from = widened(x + at, n, x_buffer);
    Wide<T>* to = place(y + at, n, y_buffer);
    if constexpr (sizeof(T) == 2) prefetch_for_writing(y + at + kBlock);
    mix(from, eps, n, to);
    narrowed(to, n, y + at);
    if (eps_out != nullptr) narrowed(eps, n, eps_out + at);
    if (sums_out != nullptr) sums.add(from, eps, n);
  });
  if (sums_out != nullptr) sums.to(sums_out);
}

// Eq. 3 with given noise.
template <class T>
void mix_noise(std::int64_t count, const T* x, const T* eps, double alpha_bar, T* y) {
  const Mix<Wide<T>> mix(alpha_bar);
  alignas(64) Wide<T> x_buffer[kBlock], eps_buffer[kBlock], y_buffer[kBlock];
  for (std::int64_t at = 0; at < count; at += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - at));
    Wide<T>* to = place(y + at, n, y_buffer);
    mix(widened(x + at, n, x_buffer), widened(eps + at, n, eps_buffer), n, to);
    narrowed(to, n, y + at);
  }
}

// Its gradient: one scaling.
template <class T>
void scaled(std::int64_t count, const T* x, double factor, T* y) {
  constexpr int kWidth = kBytes / sizeof(Wide<T>);
  const Factor<Wide<T>> by(factor);
  const auto nothing = splat(-Wide<T>{0});  // added to -0 too it changes nothing
  alignas(64) Wide<T> x_buffer[kBlock], y_buffer[kBlock];
  for (std::int64_t at = 0; at < count; at += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - at));
    const Wide<T>* from = widened(x + at, n, x_buffer);
    Wide<T>* to = place(y + at, n, y_buffer);
    for (int i = 0; i < n; i += kWidth) store(to + i, by.times(load(from + i), nothing));
    narrowed(to, n, y + at);
  }
}

}  // namespace nmer_fast::NMER_FAST_ISA
