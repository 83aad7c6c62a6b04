// Noise, generated and mixed block by block: eps stays in a buffer that fits the first-level cache and is never written
// to memory. docs/noise_contract.md defines the values.
#pragma once

#include <cstdint>

#include "distributions.h"
#include "dtypes.h"
#include "samples.h"

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
#include <cstring>
#include <type_traits>

#include "philox_simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr int kBlock =
    512;  // elements; a multiple of what one call of a transform makes on every instruction set
inline constexpr int kGroups = 4;  // Philox vectors in flight at a time, since a multiplication takes some cycles

// The first `Kept` values (4: all) of the quads in `quads` lanes, and of some more, which fit the block.
// words_of(lane, words) computes the words of some vectors from a lane on.
template <int Kept, class Transform, class Float>
void transformed(const Transform& transform, int quads, const auto& words_of, Float* eps) {
  constexpr int kLeast = Kept == 4 ? 1 : 2;  // vectors that a transform takes
  const auto vectors = [&]<int Groups>(int lane) {
    U64 words[Groups][4];
    words_of(lane, words);
    for (int g = 0; g < Groups; g += kLeast) {
      Float* to = eps + Kept * (lane + g * kQuads);
      if constexpr (Kept == 4) transform(words[g], to);
      else transform.template first<Kept>(words[g], words[g + 1], to);
    }
  };
  int lane = 0;
  for (; lane + (kGroups - 1) * kQuads < quads; lane += kGroups * kQuads) vectors.template operator()<kGroups>(lane);
  for (; lane < quads; lane += kLeast * kQuads) vectors.template operator()<kLeast>(lane);
}

// eps of elements `first` to first + n - 1 of one sample, and of some more, which fit the block. `first` is a multiple
// of 4.
template <class Float>
void generate(const QuadStream& stream, const Noise& noise, std::int64_t first, int n, Float* eps) {
  const auto quad = static_cast<std::uint64_t>(first) / 4;
  with_transform(noise.kind, noise.last(), [&](const auto& transform) {
    transformed<4>(transform, (n + 3) / 4, [&](int lane, auto& words) { stream(quad + lane, words); }, eps);
  });
}

// Calls body(at, n) for all whole steps of a block together, and for the rest, which alone then passes through buffers.
template <class Body>
void in_steps(int n, const Body& body) {
  for (int at = 0, part; at < n; at += part) {
    part = n - at < kStep ? n - at : (n - at) / kStep * kStep;
    body(at, part);
  }
}

// eps is 0 from n to the end of the step.
template <class Float>
void pad(Float* eps, int n) {
  for (int i = n; i % kStep != 0; ++i) eps[i] = 0;
}

// Calls body(eps, offset, n) for the parts of each block of `count` elements from `first` on. eps is 0 from n to the
// end of the step.
template <class Float, class Body>
void for_blocks(const Noise& noise, std::int64_t first, std::int64_t count, Body body) {
  const QuadStream stream(noise.seed, noise.draw, noise.stream, noise.sample);
  alignas(64) Float eps[kBlock];
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - done));
    generate(stream, noise, first + done, n, eps);
    pad(eps, n);
    in_steps(n, [&](int at, int part) { body(static_cast<const Float*>(eps + at), done + at, part); });
  }
}

// ---------------------------------------------------------------- short samples
//
// Lanes hold the quads of several samples. Of a sample of one or two elements only these are made; else all values of
// its quads, of which those beyond its end are then left out.

// Some whole rows: the first one's number, how many they are, their first element's number, and their elements.
struct Block {
  Index row;
  int rows;
  std::int64_t at;
  int n;
};

// Calls body(block) for blocks of at most `most` rows.
template <class Body>
void for_rows(const ShortRows& rows, int most, const Body& body) {
  const auto size = static_cast<int>(rows.size);
  for (Index row = 0; row < rows.count; row += most) {
    const auto count = static_cast<int>(std::min<Index>(most, rows.count - row));
    body(Block{row, count, row * size, count * size});
  }
}

inline int rows_of_block(int size) { return size > 2 ? kBlock / ((size + 3) / 4 * 4) : kBlock / size; }

// The noise of rows, block by block.
template <class Float>
class RowNoise {
 public:
  RowNoise(const Noise& noise, const ShortRows& rows)
      : noise_(noise),
        rows_(rows),
        size_(static_cast<int>(rows.size)),
        quads_((size_ + 3) / 4),
        stream_(noise.seed, noise.draw, noise.stream) {
    const auto most = std::min<Index>(rows.count, rows_of_block(size_));
    const int lanes = static_cast<int>(most) * quads_;
    if (size_ == 1) place_lanes<1>(lanes);
    else if (size_ == 2) place_lanes<2>(lanes);
    else place_lanes<4>(lanes);
  }

  // eps of the block's elements, one row after the other, then 0 to the end of the step.
  __attribute__((noinline)) void operator()(const Block& block, Float* eps) {
    const int lanes = block.rows * quads_;
    if (rows_.ids) {
      for (int i = 0; i < lanes_up(lanes); ++i) {
        samples_[i] = rows_.id(block.row + std::min<Index>(row_of_lane_[i], block.rows - 1));
      }
    }
    with_transform(noise_.kind, noise_.last(), [&](const auto& transform) {
      const auto one = [&](int lane, auto& words) { words_of_lanes<true>(block.row, lane, words); };
      const auto several = [&](int lane, auto& words) { words_of_lanes<false>(block.row, lane, words); };
      if (size_ == 1) transformed<1>(transform, lanes, one, eps);
      else if (size_ == 2) transformed<2>(transform, lanes, one, eps);
      else if (size_ <= 4) transformed<4>(transform, lanes, one, eps);
      else transformed<4>(transform, lanes, several, eps);
    });
    if (size_ > 2 && size_ % 4 != 0) close_up(block.rows, eps);
    pad(eps, block.n);
  }

 private:
  static int lanes_up(int lanes) { return (lanes + 2 * kQuads - 1) / (2 * kQuads) * (2 * kQuads); }

  template <int Kept>
  void place_lanes(int lanes) {
    const auto inverse = static_cast<std::uint32_t>(0x10000 / quads_ + 1);  // of at most 64, for numbers below 512
    for (int i = 0; i < lanes_up(lanes); ++i) {
      const auto quad =
          static_cast<std::uint32_t>(i / (2 * kQuads) * (2 * kQuads) + quad_of_lane<Float, Kept>(i % (2 * kQuads)));
      row_of_lane_[i] = quad * inverse >> 16;
      quad_of_lane_[i] = quad - row_of_lane_[i] * quads_;
    }
  }

  // `One`: each row has one quad.
  template <bool One, int Groups>
  void words_of_lanes(Index first_row, int lane, U64 (&words)[Groups][4]) const {
    U64 quads[Groups], samples[Groups];
    for (int g = 0; g < Groups; ++g) {
      const int at = lane + g * kQuads;
      quads[g] = load_words(quad_of_lane_ + at);
      samples[g] = rows_.ids ? load_words(samples_ + at)
                             : load_words(row_of_lane_ + at) + (rows_.first_id + static_cast<std::uint64_t>(first_row));
    }
    if constexpr (One) stream_.first_quads(samples, words);
    else stream_(quads, samples, words);
  }

  // Moves the rows together, from whole quads. A quad is read before anything is written to its place.
  void close_up(int rows, Float* eps) const {
    for (int row = 1; row < rows; ++row) {
      const Float* from = eps + row * quads_ * 4;
      Float* to = eps + row * size_;
      for (int i = 0; i < size_; i += 4) {
        Float four[4];
        __builtin_memcpy(four, from + i, sizeof(four));
        __builtin_memcpy(to + i, four, sizeof(four));
      }
    }
  }

  const Noise& noise_;
  const ShortRows& rows_;
  const int size_, quads_;
  LaneStream stream_;
  alignas(64) std::uint64_t row_of_lane_[kBlock], quad_of_lane_[kBlock], samples_[kBlock];
};

// Calls body(eps, block) for all rows. eps is 0 from the block's end to the end of the step.
template <class Float, class Body>
void for_row_noise(const Noise& noise, const ShortRows& rows, const Body& body) {
  RowNoise<Float> generated(noise, rows);
  alignas(64) Float eps[kBlock];
  for_rows(rows, rows_of_block(static_cast<int>(rows.size)), [&](const Block& block) {
    generated(block, eps);
    body(static_cast<const Float*>(eps), block);
  });
}

// The unsigned integer of a type's size.
template <class T>
using Bits =
    std::conditional_t<sizeof(T) == 2, std::uint16_t, std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;

// Repeats each row's value for all of its elements. `out` has room for a vector more.
template <class Value>
void spread(const Value* of_rows, int rows, int size, Value* out) {
  constexpr int kWidth = kBytes / sizeof(Value);
  typedef Value V __attribute__((vector_size(kBytes)));
  if (size == 1) {
    std::memcpy(out, of_rows, rows * sizeof(Value));
    return;
  }
  for (int r = 0; r < rows; ++r, out += size) {
    const V value = of_rows[r] - V{};
    for (int i = 0; i < size; i += kWidth) std::memcpy(out + i, &value, sizeof(value));
  }
}

// Of each element of a block all bits or none: those of the elements that are valid and noisy, and of those that are
// valid and not noisy.
template <class B>
struct Masks {
  static constexpr int kRoom = kBlock + kBytes / sizeof(B);
  B noisy[kRoom], kept[kRoom];
  Masks(const ShortRows& rows, const Block& block) {
    const auto size = static_cast<int>(rows.size);
    B noisy_rows[kBlock], kept_rows[kBlock];
    for (int r = 0; r < block.rows; ++r) {
      const B row = rows.selection.noisy(block.row + r) ? ~B{0} : B{0},
              any = rows.valid(block.row + r) > 0 ? ~B{0} : B{0};
      noisy_rows[r] = row & any;
      kept_rows[r] = ~row & any;
    }
    spread(noisy_rows, block.rows, size, noisy);
    spread(kept_rows, block.rows, size, kept);
    if (!rows.selection.lengths || size == 1) return;
    for (int r = 0; r < block.rows; ++r) {
      const auto valid = static_cast<int>(rows.valid(block.row + r));
      for (int i = r * size + valid; i < (r + 1) * size; ++i) noisy[i] = kept[i] = 0;
    }
  }
};

// Makes y what the selection says: 0 beyond a row's valid elements, and x, or 0 where x is null, where a row is not
// noisy.
template <class T>
void select(const ShortRows& rows, const Block& block, const T* x, T* y) {
  using B = Bits<T>;
  const Masks<B> masks(rows, block);
  const auto bits = [](const T* at) {
    B value;
    std::memcpy(&value, at, sizeof(B));
    return value;
  };
  const auto put = [](B value, T* at) { std::memcpy(at, &value, sizeof(B)); };
  if (x == nullptr) {
    for (int i = 0; i < block.n; ++i) put(bits(y + i) & masks.noisy[i], y + i);
  } else {
    for (int i = 0; i < block.n; ++i) put((bits(y + i) & masks.noisy[i]) | (bits(x + i) & masks.kept[i]), y + i);
  }
}

// ---------------------------------------------------------------- one sample

// The noise alone.
template <class T>
void noise(const Noise& noise, std::int64_t first, std::int64_t count, T* out) {
  for_blocks<Wide<T>>(noise, first, count,
                      [=](const Wide<T>* eps, std::int64_t at, int n) { narrowed(eps, n, out + at); });
}

// The square root of a number of 0 or more in each lane, as two floats, the second of which is the rounding error of
// the first, so that a product with it rounds once. Both have the same sign, and both are 0 only if the root rounds to
// 0, so an infinite x stays infinite.
struct TwoFloats {
  Half32 high, low;
};
inline TwoFloats root_in_two(F64 x) {
  const F64 root = square_root(x);
  const Half32 nearest = __builtin_convertvector(root, Half32);
  // the next smaller float where the nearest one is above
  const I64 above = (I64)(__builtin_convertvector(nearest, F64) > root);
  const Half32 high = (Half32)((HalfI32)nearest + __builtin_convertvector(above, HalfI32));
  const Half32 rest = __builtin_convertvector(root - __builtin_convertvector(high, F64), Half32),
               least = high * 0x1p-60f;
  return {high, rest > least ? rest : least};
}

// A factor of 0 or more: the square root of a number.
template <class Float>
class Factor {
 public:
  explicit Factor(double square) {
    if constexpr (sizeof(Float) == 8) {
      high_ = splat(std::sqrt(square));
    } else {
      const TwoFloats root = root_in_two(splat(square));
      high_ = splat(root.high[0]);
      low_ = splat(root.low[0]);
    }
  }
  Factor(const Float* high, const Float* low) : high_(load(high)) {
    if constexpr (sizeof(Float) == 4) low_ = load(low);
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
  explicit Mix(double alpha_bar) : keep(alpha_bar), scale(splat(static_cast<Float>(std::sqrt(1 - alpha_bar)))) {}
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
  // A step of numbers.
  void add(const auto* step) {
#pragma GCC unroll 8
    for (int part = 0; part < kParts; ++part) add(load_double(step + part * kWidth), part);
  }
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

// Calls body(at, n) for the parts of each block.
template <class Body>
void for_parts(std::int64_t count, const Body& body) {
  for (std::int64_t done = 0; done < count; done += kBlock) {
    const auto n = static_cast<int>(std::min<std::int64_t>(kBlock, count - done));
    in_steps(n, [&](int at, int part) { body(done + at, part); });
  }
}

// Eq. 3 with given noise.
template <class T>
void mix_noise(std::int64_t count, const T* x, const T* eps, double alpha_bar, T* y) {
  const Mix<Wide<T>> mix(alpha_bar);
  alignas(64) Wide<T> x_buffer[kBlock], eps_buffer[kBlock], y_buffer[kBlock];
  for_parts(count, [&](std::int64_t at, int n) {
    Wide<T>* to = place(y + at, n, y_buffer);
    mix(widened(x + at, n, x_buffer), widened(eps + at, n, eps_buffer), n, to);
    narrowed(to, n, y + at);
  });
}

// The gradient of Eq. 3, which is one scaling, by the root of `square`.
template <class T>
void scaled(std::int64_t count, const T* x, double square, T* y) {
  constexpr int kWidth = kBytes / sizeof(Wide<T>);
  const Factor<Wide<T>> by(square);
  const auto nothing = splat(-Wide<T>{0});  // adding it changes nothing, not even -0
  alignas(64) Wide<T> x_buffer[kBlock], y_buffer[kBlock];
  for_parts(count, [&](std::int64_t at, int n) {
    const Wide<T>* from = widened(x + at, n, x_buffer);
    Wide<T>* to = place(y + at, n, y_buffer);
    for (int i = 0; i < n; i += kWidth) store(to + i, by.times(load(from + i), nothing));
    narrowed(to, n, y + at);
  });
}

// ---------------------------------------------------------------- several short samples

// A factor for each element of a block: the square root of its row's number, which is 0 or more.
template <class Float>
class RowFactors {
 public:
  void set(const Block& block, int size, const auto& number_of) {
    double numbers[kBlock + kQuads];
    alignas(64) Float high[kBlock + kQuads], low[kBlock + kQuads];
    for (int r = 0; r < block.rows; ++r) numbers[r] = number_of(block.row + r);
    for (int i = 0; i < kQuads; ++i) numbers[block.rows + i] = 0;
    for (int r = 0; r < block.rows; r += kQuads) {
      if constexpr (sizeof(Float) == 8) {
        store(high + r, square_root(load(numbers + r)));
      } else {
        const TwoFloats root = root_in_two(load(numbers + r));
        std::memcpy(high + r, &root.high, sizeof(root.high));
        std::memcpy(low + r, &root.low, sizeof(root.low));
      }
    }
    spread(high, block.rows, size, high_);
    if constexpr (sizeof(Float) == 4) spread(low, block.rows, size, low_);
  }
  Factor<Float> operator[](int i) const { return {high_ + i, low_ + i}; }

 private:
  alignas(64) Float high_[kBlock + kStep], low_[kBlock + kStep];
};

// y = keep x + scale eps for the rows of a block.
template <class T>
class RowMix {
 public:
  using W = Wide<T>;
  RowMix(const ShortRows& rows, const PerSample<double>& alpha_bar)
      : rows_(rows), size_(static_cast<int>(rows.size)), alpha_bar_(alpha_bar), same_(alpha_bar(0)) {}

  // x and y begin at the block. eps_at(i, n) are elements of eps from i on, and 0 to the end of the step. sums may be
  // null.
  void operator()(const Block& block, const T* x, const auto& eps_at, T* y, Sums* sums) {
    if (alpha_bar_.differs()) set_factors(block);
    in_steps(block.n, [&](int at, int n) {
      alignas(64) W x_buffer[kBlock], y_buffer[kBlock];
      const W* from = widened(x + at, n, x_buffer);
      const W* eps = eps_at(at, n);
      W* to = place(y + at, n, y_buffer);
      if (alpha_bar_.differs()) mix_by_row(at, n, from, eps, to);
      else same_(from, eps, n, to);
      narrowed(to, n, y + at);
      if (sums != nullptr && !rows_.selection) sums->add(from, eps, n);
    });
    if (!rows_.selection) return;
    select(rows_, block, x, y);
    if (sums != nullptr) add_selected(block, x, eps_at, *sums);
  }

 private:
  void set_factors(const Block& block) {
    keep_.set(block, size_, [&](Index row) { return alpha_bar_(row); });
    W scales[kBlock];
    for (int r = 0; r < block.rows; ++r) scales[r] = static_cast<W>(std::sqrt(1 - alpha_bar_(block.row + r)));
    spread(scales, block.rows, size_, scale_);
  }

  void mix_by_row(int at, int n, const W* x, const W* eps, W* y) {
    constexpr int kWidth = kBytes / sizeof(W);
    for (int i = 0; i < n; i += kWidth) {
      store(y + i, keep_[at + i].times(load(x + i), load(scale_ + at + i) * load(eps + i)));
    }
  }

  void add_selected(const Block& block, const T* x, const auto& eps_at, Sums& sums) const {
    const Masks<Bits<W>> masks(rows_, block);
    in_steps(block.n, [&](int at, int n) {
      alignas(64) W x_buffer[kBlock], some_x[kBlock], some_eps[kBlock];
      const W *from = widened(x + at, n, x_buffer), *eps = eps_at(at, n);
      for (int i = 0; i < n; ++i) {
        some_x[i] = masks.noisy[at + i] ? from[i] : 0;
        some_eps[i] = masks.noisy[at + i] ? eps[i] : 0;
      }
      pad(some_x, n);
      pad(some_eps, n);
      sums.add(some_x, some_eps, n);
    });
  }

  const ShortRows& rows_;
  const int size_;
  const PerSample<double> alpha_bar_;
  const Mix<W> same_;
  RowFactors<W> keep_;
  alignas(64) W scale_[kBlock + kStep];
};

template <class T>
void noise_rows(const Noise& noise, const ShortRows& rows, T* out) {
  for_row_noise<Wide<T>>(noise, rows, [&](const Wide<T>* eps, const Block& block) {
    narrowed(eps, block.n, out + block.at);
    if (rows.selection) select<T>(rows, block, nullptr, out + block.at);
  });
}

template <class T>
void add_noise_rows(const Noise& noise, const ShortRows& rows, const T* x, const PerSample<double>& alpha_bar, T* y,
                    T* eps_out, double* sums_out) {
  RowMix<T> mix(rows, alpha_bar);
  Sums sums;
  for_row_noise<Wide<T>>(noise, rows, [&](const Wide<T>* eps, const Block& block) {
    if constexpr (sizeof(T) == 2) prefetch_for_writing(y + block.at + kBlock);
    mix(
        block, x + block.at, [=](int at, int) { return eps + at; }, y + block.at,
        sums_out != nullptr ? &sums : nullptr);
    if (eps_out == nullptr) return;
    narrowed(eps, block.n, eps_out + block.at);
    if (rows.selection) select<T>(rows, block, nullptr, eps_out + block.at);
  });
  if (sums_out != nullptr) sums.to(sums_out);
}

template <class T>
void mix_noise_rows(const ShortRows& rows, const T* x, const T* eps, const PerSample<double>& alpha_bar, T* y) {
  RowMix<T> mix(rows, alpha_bar);
  for_rows(rows, kBlock / static_cast<int>(rows.size), [&](const Block& block) {
    alignas(64) Wide<T> eps_buffer[kBlock];
    const auto eps_at = [&](int at, int n) { return widened(eps + block.at + at, n, eps_buffer); };
    mix(block, x + block.at, eps_at, y + block.at, nullptr);
  });
}

// The gradient of Eq. 3 with respect to x, or to the noise.
template <class T>
void mix_noise_backward_rows(const ShortRows& rows, const T* grad, const PerSample<double>& alpha_bar, bool wrt_noise,
                             T* out) {
  using W = Wide<T>;
  constexpr int kWidth = kBytes / sizeof(W);
  const auto size = static_cast<int>(rows.size);
  const auto nothing = splat(-W{0});
  RowFactors<W> factors;
  alignas(64) W buffer[kBlock], out_buffer[kBlock];
  for_rows(rows, kBlock / size, [&](const Block& block) {
    factors.set(block, size, [&](Index row) { return wrt_noise ? 1 - alpha_bar(row) : alpha_bar(row); });
    in_steps(block.n, [&](int at, int n) {
      const W* from = widened(grad + block.at + at, n, buffer);
      W* to = place(out + block.at + at, n, out_buffer);
      for (int i = 0; i < n; i += kWidth) store(to + i, factors[at + i].times(load(from + i), nothing));
      narrowed(to, n, out + block.at + at);
    });
    if (rows.selection) select<T>(rows, block, wrt_noise ? nullptr : grad + block.at, out + block.at);
  });
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

inline void scaled(Type type, std::int64_t count, const void* x, double square, void* y) {
  with_type(type, [&](auto t) { scaled(count, in(t, x), square, out(t, y)); });
}

inline void noise_rows(Type type, const Noise& n, const ShortRows& rows, void* eps) {
  with_type(type, [&](auto t) { noise_rows(n, rows, out(t, eps)); });
}

inline void add_noise_rows(Type type, const Noise& n, const ShortRows& rows, const void* x,
                           const PerSample<double>& alpha_bar, void* y, void* eps, double* sums) {
  with_type(type, [&](auto t) { add_noise_rows(n, rows, in(t, x), alpha_bar, out(t, y), out(t, eps), sums); });
}

inline void mix_noise_rows(Type type, const ShortRows& rows, const void* x, const void* eps,
                           const PerSample<double>& alpha_bar, void* y) {
  with_type(type, [&](auto t) { mix_noise_rows(rows, in(t, x), in(t, eps), alpha_bar, out(t, y)); });
}

inline void mix_noise_backward_rows(Type type, const ShortRows& rows, const void* grad,
                                    const PerSample<double>& alpha_bar, bool wrt_noise, void* out_data) {
  with_type(type, [&](auto t) { mix_noise_backward_rows(rows, in(t, grad), alpha_bar, wrt_noise, out(t, out_data)); });
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <cmath>
#include <vector>

#include "batch.h"

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// The short samples of a run, without their ids.
inline ShortRows rows_of(const Samples& s, const Run& run, const Selection& selection) {
  return {run.samples, s.row, s.steps, s.step_size, {0}, 0, selection.from(run.sample, run.modality)};
}

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

  // The short samples of a run.
  ShortRows rows(const Samples& s, const Run& run, const Selection& selection) const {
    ShortRows rows = rows_of(s, run, selection);
    rows.ids = ids.from(run.sample);
    rows.first_id = static_cast<std::uint64_t>(run.sample);
    return rows;
  }
};

void noise(const auto& parallel, const auto& k, const Samples& samples, const Source& source, Index stream,
           const Selection& selection, void* eps) {
  const Samples s = samples.grouped();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    if (s.is_short()) {
      k.noise_rows(s.type, source.of(run.sample, stream), source.rows(s, run, selection), run.in(eps));
      return;
    }
    const Index valid = selection.noisy(run.sample) ? run.valid : 0;
    if (valid > 0) k.noise(s.type, source.of(run.sample, stream), run.first, valid, run.in(eps));
    run.zero(eps, valid);
  });
}

// Eq. 3 with generated noise. eps may be null.
void add_noise(const auto& parallel, const auto& k, const Samples& samples, const Source& source, Index stream,
               const Selection& selection, const PerSample<double>& alpha_bar, const void* x, void* y, void* eps) {
  const Samples s = samples.grouped();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    void* eps_to = eps == nullptr ? nullptr : run.in(eps);
    if (s.is_short()) {
      k.add_noise_rows(s.type, source.of(run.sample, stream), source.rows(s, run, selection), run.in(x),
                       alpha_bar.from(run.sample), run.in(y), eps_to, nullptr);
      return;
    }
    const Index noisy = selection.noisy(run.sample) ? run.valid : 0;
    if (noisy > 0) {
      k.add_noise(s.type, source.of(run.sample, stream), run.first, noisy, run.in(x), alpha_bar(run.sample), run.in(y),
                  eps_to, nullptr);
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
    if (eps != nullptr) run.zero(eps, noisy);
  });
}

// Eq. 3 for several modalities. stats [M, 4] may be null: the count and the sums of x, x^2 and eps^2 over the elements
// that are valid and noisy.
void add_noise_multimodal(const auto& parallel, const auto& k, const std::vector<Samples>& samples,
                          const Source& source, const std::vector<Index>& streams, const Selection& selection,
                          const PerSample<double>& alpha_bars, const std::vector<const void*>& xs,
                          const std::vector<void*>& ys, double* stats) {
  struct Partial {
    double count = 0, sums[3] = {};
  };
  std::vector<Samples> all;
  Index tasks = 0;
  for (const Samples& s : samples) tasks += all.emplace_back(s.grouped()).tasks();
  std::vector<Partial> partials(stats != nullptr ? tasks : 0);
  for_runs(parallel, all, selection, [&](Index task, const Run& run) {
    const Index m = run.modality;
    const Noise noise = source.of(run.sample, streams[m]);
    Partial* partial = stats != nullptr ? &partials[task] : nullptr;
    if (all[m].is_short()) {
      const ShortRows rows = source.rows(all[m], run, selection);
      k.add_noise_rows(all[m].type, noise, rows, run.in(xs[m]), alpha_bars.from(run.sample, m), run.in(ys[m]), nullptr,
                       partial != nullptr ? partial->sums : nullptr);
      for (Index row = 0; partial != nullptr && row < rows.count; ++row) {
        partial->count += static_cast<double>(rows.selection.noisy(row) ? rows.valid(row) : 0);
      }
      return;
    }
    if (run.valid > 0 && selection.noisy(run.sample, m)) {
      if (partial != nullptr) partial->count = static_cast<double>(run.valid);
      k.add_noise(all[m].type, noise, run.first, run.valid, run.in(xs[m]), alpha_bars(run.sample, m), run.in(ys[m]),
                  nullptr, partial != nullptr ? partial->sums : nullptr);
    } else {
      run.copy(xs[m], ys[m]);
    }
    run.zero(ys[m], run.valid);
  });
  if (stats == nullptr) return;
  std::fill_n(stats, 4 * all.size(), 0.0);
  Index task = 0;
  for (const Samples& s : all) {  // in the order of the tasks, so that the bits do not depend on the threads
    for (const Index end = task + s.tasks(); task < end; ++task) {
      stats[0] += partials[task].count;
      for (int j = 0; j < 3; ++j) stats[1 + j] += partials[task].sums[j];
    }
    stats += 4;
  }
}

// The samples of an op whose result depends on the sample by alpha_bar and the selection alone.
inline Samples mixed(const Samples& s, const Selection& selection, const PerSample<double>& alpha_bar) {
  return selection || alpha_bar.differs() ? s.grouped() : s.flat();
}

void mix_noise(const auto& parallel, const auto& k, const Samples& samples, const Selection& selection,
               const PerSample<double>& alpha_bar, const void* x, const void* eps, void* y) {
  const Samples s = mixed(samples, selection, alpha_bar);
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    if (s.is_short()) {
      k.mix_noise_rows(s.type, rows_of(s, run, selection), run.in(x), run.in(eps), alpha_bar.from(run.sample),
                       run.in(y));
      return;
    }
    if (selection.noisy(run.sample)) {
      k.mix_noise(s.type, run.valid, run.in(x), run.in(eps), alpha_bar(run.sample), run.in(y));
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
  });
}

// The gradient of x, or of the noise where `wrt_noise`.
void mix_noise_backward(const auto& parallel, const auto& k, const Samples& samples, const Selection& selection,
                        const PerSample<double>& alpha_bar, bool wrt_noise, const void* grad, void* out) {
  const Samples s = mixed(samples, selection, alpha_bar);
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    if (s.is_short()) {
      k.mix_noise_backward_rows(s.type, rows_of(s, run, selection), run.in(grad), alpha_bar.from(run.sample), wrt_noise,
                                run.in(out));
      return;
    }
    const double kept = alpha_bar(run.sample);
    if (selection.noisy(run.sample)) {
      k.scaled(s.type, run.valid, run.in(grad), wrt_noise ? 1 - kept : kept, run.in(out));
    } else if (!wrt_noise) {
      run.copy(grad, out);
    }
    run.zero(out, wrt_noise && !selection.noisy(run.sample) ? 0 : run.valid);
  });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
