// Convolutions over time with ReLU and the maximum over all windows, and the gradient of their weights. Only the window
// that has the maximum contributes to the gradient.
//
// Samples stand end to end, and rows of zeros extend a sample that is shorter than the longest kernel. A column is one
// filter of one encoder; the number of columns is a multiple of 16. The inputs of a window are consecutive in memory,
// so a convolution is a matrix product whose rows overlap.
#pragma once

#include <cstdint>

#include "product.h"

namespace nmer_fast {

inline constexpr int kLongestKernel = 5;

struct Convolution {
  int kernels, encoders, filters, dims;
  const int* sizes;  // steps of each kernel, at most kLongestKernel
  const std::int64_t* lengths;
  const std::int64_t* starts;
  const float* inputs;  // [rows, dims]
  const float* panels;  // each tap of each kernel, as pack_columns packs it
  const float* biases;  // [kernels, encoders, filters]
  float* pooled;        // [samples, encoders, kernels, filters]
  std::int64_t* argmax;
};

struct ConvolutionBackward {
  int kernels, columns, samples, dims;
  std::int64_t rows;
  const int* sizes;
  const float* inputs;       // [rows, dims]
  const std::int64_t* wins;  // [kernels, columns, samples]: the row where the window with the maximum begins
  const float* grads;
  float* const* grad_weights;  // [columns, size, dims] for each kernel
};

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace nmer_fast::NMER_FAST_ISA {

// The products of all windows with one panel's columns, tap by tap: sums [windows, panel].
template <int kVectors>
inline void window_products(const float* const* windows, int count, const float* const* panels, int size, int dims,
                            float* sums) {
  for (int tap = 0; tap < size; ++tap) {
    for_tiles(0, count, [&](int first, auto tile) {
      constexpr int kRows = decltype(tile)::value;
      F32 acc[kRows][kVectors] = {};  // each tap has its own sum, so that rounding does not grow with the kernel
      const float* rows[kRows];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) rows[r] = windows[first + r] + static_cast<long>(tap) * dims;
      multiply(rows, panels[tap], dims, acc);
      float* to = sums + first * static_cast<long>(kVectors) * kLanes;
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v, to += kLanes) store(to, tap > 0 ? load(to) + acc[r][v] : acc[r][v]);
      }
    });
  }
}

// For samples `begin` to `end - 1` and one panel's columns of every kernel: the maximum over the windows of bias +
// product and 0, and the window that has it.
inline void conv_max_pool(const Convolution& s, int begin, int end, int panel) {
  const int columns = s.encoders * s.filters, across = panel_of(columns);
  std::vector<const float*> windows;
  std::vector<float> sums;
  for (int kernel = 0, first = 0; kernel < s.kernels; first += s.sizes[kernel++]) {
    const int size = s.sizes[kernel];
    windows.clear();
    for (int b = begin; b < end; ++b)
      for (long t = 0; t < (s.lengths[b] > 0 ? std::max<long>(s.lengths[b] - size, 0) + 1 : 0); ++t)
        windows.push_back(s.inputs + (s.starts[b] + t) * s.dims);
    sums.resize(windows.size() * across);
    const float* panels[kLongestKernel];
    for (int tap = 0; tap < size; ++tap)
      panels[tap] = s.panels + (static_cast<long>(first + tap) * columns + static_cast<long>(panel) * across) * s.dims;
    const int count = static_cast<int>(windows.size());
    if (across == kLanes) window_products<1>(windows.data(), count, panels, size, s.dims, sums.data());
    else window_products<4>(windows.data(), count, panels, size, s.dims, sums.data());
    const float* products = sums.data();
    for (int b = begin; b < end; ++b) {
      const int of_sample = s.lengths[b] > 0 ? std::max(static_cast<int>(s.lengths[b]) - size, 0) + 1 : 0;
      for (int c = 0; c < across; c += kLanes) {
        const int column = panel * across + c;
        const F32 bias = load(s.biases + static_cast<long>(kernel) * columns + column);
        F32 best = splat(-std::numeric_limits<float>::infinity());
        I32 when{};
        for (int t = 0; t < of_sample; ++t) {
          const F32 sum = bias + load(products + static_cast<long>(t) * across + c);
          const I32 stays = (I32)(sum <= best) | (I32)(best != best);  // NaN propagates
          when = (when & stays) | ((I32{} + t) & ~stays);
          best = where_negative(stays, best, sum);
        }
        alignas(64) float top[kLanes];
        store(top, where_negative((I32)(best <= F32{}), F32{}, best));
        for (int lane = 0; lane < kLanes; ++lane) {  // [sample, encoder, kernel, filter]
          const int encoder = (column + lane) / s.filters, filter = (column + lane) % s.filters;
          const long at = ((static_cast<long>(b) * s.encoders + encoder) * s.kernels + kernel) * s.filters + filter;
          s.pooled[at] = top[lane];
          s.argmax[at] = when[lane];
        }
      }
      products += static_cast<long>(of_sample) * across;
    }
  }
}

inline constexpr int kVectorsAcross = 2;  // vectors of input dimensions in one part
inline int conv_part() { return kVectorsAcross * kLanes; }

// The gradients of one column's weights, for the input dimensions of one part. `wins` and `grads` have one value for
// each sample: the row where the window with the maximum begins, and the gradient. A gradient of 0 adds nothing.
template <int kSize>
inline void winning_windows(const ConvolutionBackward& s, const float* inputs, const std::int64_t* wins,
                            const float* grads, long dims, float* to) {
  constexpr int kAcross = kVectorsAcross * kLanes;
  F32 acc[kSize][kVectorsAcross] = {};
  for (int sample = 0; sample < s.samples; ++sample) {
    if (grads[sample] == 0) continue;
    const float* window = inputs + wins[sample] * kAcross;
    const F32 g = splat(grads[sample]);
#pragma GCC unroll 8
    for (int tap = 0; tap < kSize; ++tap)
#pragma GCC unroll 2
      for (int v = 0; v < kVectorsAcross; ++v)
        acc[tap][v] = fma(g, load(window + tap * kAcross + v * kLanes), acc[tap][v]);
  }
  for (int tap = 0; tap < kSize; ++tap)
    for (int v = 0; v < kVectorsAcross; ++v) store(to + tap * dims + v * kLanes, acc[tap][v]);
}

inline void conv_max_pool_backward(const ConvolutionBackward& s, int part) {
  constexpr int kAcross = kVectorsAcross * kLanes;
  const long dim = static_cast<long>(part) * kAcross, width = std::min<long>(kAcross, s.dims - dim);
  std::vector<float> inputs(s.rows * kAcross);  // the part's dimensions alone, so that a cache holds them
  for (std::int64_t row = 0; row < s.rows; ++row)
    std::memcpy(inputs.data() + row * kAcross, s.inputs + row * s.dims + dim, width * sizeof(float));
  std::vector<float> whole(8 * kAcross);
  for (int kernel = 0; kernel < s.kernels; ++kernel) {
    const int size = s.sizes[kernel];
    for (int column = 0; column < s.columns; ++column) {
      const long at = (static_cast<long>(kernel) * s.columns + column) * s.samples;
      float* grad = s.grad_weights[kernel] + static_cast<long>(column) * size * s.dims + dim;
      float* to = width == kAcross ? grad : whole.data();
      const long dims = width == kAcross ? s.dims : kAcross;
      switch (size) {
        case 1: winning_windows<1>(s, inputs.data(), s.wins + at, s.grads + at, dims, to); break;
        case 2: winning_windows<2>(s, inputs.data(), s.wins + at, s.grads + at, dims, to); break;
        case 3: winning_windows<3>(s, inputs.data(), s.wins + at, s.grads + at, dims, to); break;
        case 4: winning_windows<4>(s, inputs.data(), s.wins + at, s.grads + at, dims, to); break;
        default: winning_windows<5>(s, inputs.data(), s.wins + at, s.grads + at, dims, to);
      }
      if (width == kAcross) continue;
      for (int tap = 0; tap < size; ++tap) std::memcpy(grad + tap * s.dims, to + tap * kAcross, width * sizeof(float));
    }
  }
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <algorithm>
#include <utility>
#include <vector>

#include "sequences.h"

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// The maxima over all windows. The weights of each kernel, [encoders * filters, size, dims], are packed into `panels`;
// s.panels points there too.
void windows_max(const auto& parallel, const auto& k, const Sequences& sequences,
                 const std::vector<const float*>& weights, float* panels, const Convolution& s) {
  constexpr int kTogether = 32;  // samples that use a panel while a cache holds it
  const int columns = s.encoders * s.filters, count = static_cast<int>(sequences.count());
  std::vector<std::pair<int, int>> places;  // (kernel, tap) of every tap
  for (int kernel = 0; kernel < s.kernels; ++kernel) {
    for (int tap = 0; tap < s.sizes[kernel]; ++tap) places.emplace_back(kernel, tap);
  }
  parallel(0, static_cast<Index>(places.size()), 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const auto [kernel, tap] = places[i];
      k.pack_columns(weights[kernel], columns, s.sizes[kernel], tap, s.dims, panels + i * columns * s.dims);
    }
  });
  const int across = columns / k.panel_of(columns), groups = (count + kTogether - 1) / kTogether;
  parallel(0, static_cast<Index>(across) * groups, 1, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const int first = static_cast<int>(task % groups) * kTogether;
      k.conv_max_pool(s, first, std::min(first + kTogether, count), static_cast<int>(task / groups));
    }
  });
}

// The gradients of the weights. `grad` is the gradient of the maxima, 0 where ReLU was 0, and `argmax` says which
// window has each maximum; both are [samples, encoders, kernels, filters]. This function sets s.wins and s.grads.
void winning_windows(const auto& parallel, const auto& k, const Sequences& sequences, int filters, const float* grad,
                     const Index* argmax, ConvolutionBackward s) {
  const Index encoders = s.columns / filters;
  std::vector<Index> wins(static_cast<Index>(s.kernels) * s.columns * s.samples);
  std::vector<float> grads(wins.size());
  for (Index b = 0; b < s.samples; ++b)
    for (Index e = 0; e < encoders; ++e)
      for (Index kernel = 0; kernel < s.kernels; ++kernel)
        for (Index f = 0; f < filters; ++f) {
          const Index from = ((b * encoders + e) * s.kernels + kernel) * filters + f;
          const Index to = (kernel * s.columns + e * filters + f) * s.samples + b;
          wins[to] = sequences.starts[b] + argmax[from];
          grads[to] = grad[from];
        }
  s.wins = wins.data(), s.grads = grads.data();
  parallel(0, (s.dims + k.conv_part() - 1) / k.conv_part(), 1, [&](Index begin, Index end) {
    for (Index part = begin; part < end; ++part) k.conv_max_pool_backward(s, static_cast<int>(part));
  });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
