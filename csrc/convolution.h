// Convolutions over time whose maximum alone is kept: the maximum of what a matrix product left of each tap, and the
// gradient of the weights, which only the windows that won have a part in.
//
// Samples stand end to end, `rows` of zeros after each that is shorter than the longest kernel. Columns are filters of
// encoders; a product's row holds a block of them for each tap of each kernel. They are a multiple of 16.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

// One sample: max over its windows of bias + the taps' products, and 0; which window it was.
inline void conv_max_pool(const Convolution& s, int sample) {
  const long row = static_cast<long>(s.taps) * s.columns;
  const float* products = s.products + s.starts[sample] * row;
  const long to = static_cast<long>(sample) * s.kernels * s.columns;
  int first = 0;
  for (int kernel = 0; kernel < s.kernels; first += s.sizes[kernel++]) {
    const int size = s.sizes[kernel], windows = std::max(static_cast<int>(s.lengths[sample]) - size, 0) + 1;
    for (int column = 0; column < s.columns; column += kLanes) {
      const F32 bias = load(s.biases + static_cast<long>(kernel) * s.columns + column);
      F32 best = splat(-std::numeric_limits<float>::infinity());
      I32 when{};
      for (int t = 0; t < windows; ++t) {
        F32 sum = bias;
        for (int tap = 0; tap < size; ++tap)
          sum = sum + load(products + (t + tap) * row + static_cast<long>(first + tap) * s.columns + column);
        const I32 stays = (I32)(sum <= best) | (I32)(best != best);  // what is no number is seen at the end
        when = (when & stays) | ((I32{} + t) & ~stays);
        best = where_negative(stays, best, sum);
      }
      const I32 off = s.lengths[sample] > 0 ? (I32)(best <= F32{}) : I32{} - 1;
      alignas(64) float top[kLanes];
      store(top, where_negative(off, F32{}, best));
      for (int lane = 0; lane < kLanes; ++lane) {  // [sample, encoder, kernel, filter]
        const int encoder = (column + lane) / s.filters, filter = (column + lane) % s.filters;
        const long at = to + (static_cast<long>(encoder) * s.kernels + kernel) * s.filters + filter;
        s.pooled[at] = top[lane];
        s.argmax[at] = when[lane];
      }
    }
  }
}

inline constexpr int kVectorsAcross = 2;  // vectors of input dimensions that a task takes

// Input dimensions from `dim` on, as many as two vectors have: grad of every weight of them. `wins` and `grads` are by
// kernel, column and sample: the row where the winning window starts, and the gradient; a gradient of 0 adds nothing.
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
  std::vector<float> inputs(s.rows * kAcross);  // these dimensions alone, so that a cache holds them
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
