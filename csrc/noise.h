// Noise, generated and mixed block by block: eps stays in a buffer that fits the first-level cache and is never written
// to memory. docs/noise_contract.md defines the values.
#pragma once

#include <cstdint>

#include "distributions.h"
#include "dtypes.h"

namespace nmer_fast {

// All that decides a sample's noise.
struct Noise {
  std::uint64_t seed;
  std::uint32_t draw;
  std::uint32_t stream;
  std::uint64_t sample;
  Kind kind;
  std::uint32_t threshold;  // ceil(p 2^31), for impulses

  std::int32_t last() const { return static_cast<std::int32_t>(threshold - 1); }
};

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <algorithm>
#include <cmath>

#include "philox_simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr int kBlock =
    512;  // elements; a multiple of what one call of a transform makes on every instruction set
inline constexpr int kGroups = 4;  // Philox vectors in flight at a time, since a multiplication takes some cycles

// eps of elements `first` to first + n - 1 in float32, and of some more, which fit the block. `first` is a multiple
// of 4.
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
  with_transform(noise.kind, noise.last(), [&](const auto& transform) { generate(stream, transform, first, n, eps); });
}

inline void generate(const QuadStream&, const Noise& noise, std::int64_t first, int n, double* eps) {
  for (int i = 0; i < n; i += 4) {
    const auto quad = static_cast<std::uint32_t>((first + i) / 4);
    const Words w = philox(sample_counter(quad, noise.sample, noise.stream, noise.draw), noise.seed);
    quad64(noise.kind, noise.last(), w, eps + i);
  }
}

// Calls body(eps, offset, n) for each block of `count` elements from `first` on. eps is 0 from n to the end of the
// step.
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

// The noise alone.
template <class T>
void noise(const Noise& noise, std::int64_t first, std::int64_t count, T* out) {
  for_blocks<Wide<T>>(noise, first, count,
                      [=](const Wide<T>* eps, std::int64_t at, int n) { narrowed(eps, n, out + at); });
}

// A factor of 0 or more as two floats, the second of which is the rounding error of the first, so that a product with
// it rounds once. Both have the same sign, and both are 0 only if the factor rounds to 0, so an infinite x stays
// infinite.
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

// y = keep x + scale eps. eps has an error of its own, so scale needs no second part.
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

// A sum in double, kept separately for each lane of a step. The lanes are added in order at the end, so the result is
// the same on every instruction set.
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

// The sums of x, x^2 and eps^2.
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

// Prefetches the next block's cache lines while its noise is generated: the stores of 16-bit results come in short
// bursts, which would otherwise wait for the lines.
template <class T>
void prefetch_for_writing(const T* to) {
  for (int i = 0; i < kBlock; i += 64 / sizeof(T)) __builtin_prefetch(to + i, 1);
}

// Eq. 3 with noise that is generated in the same pass. eps_out and sums_out may be null.
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

// The gradient of Eq. 3, which is one scaling.
template <class T>
void scaled(std::int64_t count, const T* x, double factor, T* y) {
  constexpr int kWidth = kBytes / sizeof(Wide<T>);
  const Factor<Wide<T>> by(factor);
  const auto nothing = splat(-Wide<T>{0});  // adding it changes nothing, not even -0
  alignas(64) Wide<T> x_buffer[kBlock], y_buffer[kBlock];
  for (std::int64_t at = 0; at < count; at += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - at));
    const Wide<T>* from = widened(x + at, n, x_buffer);
    Wide<T>* to = place(y + at, n, y_buffer);
    for (int i = 0; i < n; i += kWidth) store(to + i, by.times(load(from + i), nothing));
    narrowed(to, n, y + at);
  }
}

// ---------------------------------------------------------------- kernels for an element type known at run time

inline void noise(Type type, const Noise& n, std::int64_t first, std::int64_t count, void* eps) {
  with_type(type, [&](auto t) { noise(n, first, count, out(t, eps)); });
}

inline void add_noise(Type type, const Noise& n, std::int64_t first, std::int64_t count, const void* x,
                      double alpha_bar, void* y, void* eps, double* sums) {
  with_type(type, [&](auto t) { add_noise(n, first, count, in(t, x), alpha_bar, out(t, y), out(t, eps), sums); });
}

inline void mix_noise(Type type, std::int64_t count, const void* x, const void* eps, double alpha_bar, void* y) {
  with_type(type, [&](auto t) { mix_noise(count, in(t, x), in(t, eps), alpha_bar, out(t, y)); });
}

inline void scaled(Type type, std::int64_t count, const void* x, double factor, void* y) {
  with_type(type, [&](auto t) { scaled(count, in(t, x), factor, out(t, y)); });
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <cmath>
#include <vector>

#include "batch.h"

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// The part of `Noise` that all samples share, and the samples' ids.
struct Source {
  Noise base;
  PerSample<Index> ids{0};
  Source(std::uint64_t seed, std::uint32_t draw, Kind kind, double p, PerSample<Index> sample_ids)
      : base{seed, draw, 0, 0, kind, static_cast<std::uint32_t>(std::ceil(p * 0x1p31))}, ids(sample_ids) {}
  Noise of(Index sample, Index stream) const {
    Noise noise = base;
    noise.stream = static_cast<std::uint32_t>(stream);
    noise.sample = static_cast<std::uint64_t>(ids ? ids(sample) : sample);
    return noise;
  }
};

void noise(const auto& parallel, const auto& k, const Samples& s, const Source& source, Index stream,
           const Selection& selection, void* eps) {
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index valid = selection.noisy(run.sample) ? run.valid : 0;
    if (valid > 0) k.noise(s.type, source.of(run.sample, stream), run.first, valid, run.in(eps));
    run.zero(eps, valid);
  });
}

// Eq. 3 with generated noise. eps may be null.
void add_noise(const auto& parallel, const auto& k, const Samples& s, const Source& source, Index stream,
               const Selection& selection, const PerSample<double>& alpha_bar, const void* x, void* y, void* eps) {
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index noisy = selection.noisy(run.sample) ? run.valid : 0;
    if (noisy > 0) {
      k.add_noise(s.type, source.of(run.sample, stream), run.first, noisy, run.in(x), alpha_bar(run.sample), run.in(y),
                  eps == nullptr ? nullptr : run.in(eps), nullptr);
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
    if (eps != nullptr) run.zero(eps, noisy);
  });
}

// Eq. 3 for several modalities. stats [M, 4] may be null: the count and the sums of x, x^2 and eps^2 over the elements
// that are valid and noisy.
void add_noise_multimodal(const auto& parallel, const auto& k, const std::vector<Samples>& all, const Source& source,
                          const std::vector<Index>& streams, const Selection& selection,
                          const PerSample<double>& alpha_bars, const std::vector<const void*>& xs,
                          const std::vector<void*>& ys, double* stats) {
  struct Partial {
    double count = 0, sums[3] = {};
  };
  Index tasks = 0;
  for (const Samples& s : all) tasks += s.batch * s.chunks();
  std::vector<Partial> partials(stats != nullptr ? tasks : 0);
  for_runs(parallel, all, selection, [&](Index task, const Run& run) {
    const Index m = run.modality;
    if (run.valid > 0 && selection.noisy(run.sample, m)) {
      Partial* partial = stats != nullptr ? &partials[task] : nullptr;
      if (partial != nullptr) partial->count = static_cast<double>(run.valid);
      k.add_noise(all[m].type, source.of(run.sample, streams[m]), run.first, run.valid, run.in(xs[m]),
                  alpha_bars(run.sample, m), run.in(ys[m]), nullptr, partial != nullptr ? partial->sums : nullptr);
    } else {
      run.copy(xs[m], ys[m]);
    }
    run.zero(ys[m], run.valid);
  });
  if (stats == nullptr) return;
  std::fill_n(stats, 4 * all.size(), 0.0);
  Index task = 0;
  for (const Samples& s : all) {  // in the order of the tasks, so that the bits do not depend on the threads
    for (const Index end = task + s.batch * s.chunks(); task < end; ++task) {
      stats[0] += partials[task].count;
      for (int j = 0; j < 3; ++j) stats[1 + j] += partials[task].sums[j];
    }
    stats += 4;
  }
}

void mix_noise(const auto& parallel, const auto& k, const Samples& s, const Selection& selection,
               const PerSample<double>& alpha_bar, const void* x, const void* eps, void* y) {
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    if (selection.noisy(run.sample)) {
      k.mix_noise(s.type, run.valid, run.in(x), run.in(eps), alpha_bar(run.sample), run.in(y));
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
  });
}

// The gradient of x, or of the noise where `wrt_noise`.
void mix_noise_backward(const auto& parallel, const auto& k, const Samples& s, const Selection& selection,
                        const PerSample<double>& alpha_bar, bool wrt_noise, const void* grad, void* out) {
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const double kept = alpha_bar(run.sample);
    if (selection.noisy(run.sample)) {
      k.scaled(s.type, run.valid, run.in(grad), std::sqrt(wrt_noise ? 1 - kept : kept), run.in(out));
    } else if (!wrt_noise) {
      run.copy(grad, out);
    }
    run.zero(out, wrt_noise && !selection.noisy(run.sample) ? 0 : run.valid);
  });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
