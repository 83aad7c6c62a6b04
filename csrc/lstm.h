// The recurrence of a one-layer LSTM with its maximum over time, and the gradient of the gates, over sequences of
// different lengths.
//
// Sequences stand end to end, and each has one row more than it has steps. For a sequence that begins at row s, step t
// uses row s + t of `gates` and row s + t + 1 of `hidden` and `cell`. Row s of the states is the zero state before the
// first step, and row s + length of the gates is unused. A kernel takes a group of samples, the longest first, and
// drops each sample after its last step. The width is a multiple of 16.
#pragma once

#include <cstdint>

#include "product.h"

namespace nmer_fast {

inline constexpr int kGroup = 32;  // the largest group of samples

// Several encoders read the same input; their results stand beside each other.
struct Lstm {
  int encoders, width;
  const std::int64_t* lengths;  // valid steps of each sample
  const std::int64_t* starts;   // first row of each sample
  const float* weight_hh;       // [encoders, 4 width, width], gates in the order i, f, g, o
  float* gates;                 // [rows, encoders, 4 width]: first the input's products, afterwards the gates
  float* hidden;                // [rows, encoders, width]
  float* cell;
  float* pooled;  // [samples, encoders, width]
  std::int64_t* argmax;
};

struct LstmBackward {
  int encoders, width;
  const std::int64_t* lengths;
  const std::int64_t* starts;
  const float* weight_hh;
  const float* gates;
  const float* cell;
  const float* grad;           // gradient of pooled; without argmax, of hidden: row s + t for step t
  const std::int64_t* argmax;  // may be null
  float* d_gates;              // gradient before the activations; zero in the unused row of each sample
};

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <cstring>
#include <limits>
#include <vector>

#include "distributions.h"

namespace nmer_fast::NMER_FAST_ISA {

// e^x with relative error 2^-23, for x limited to -87 to 87: x = n ln 2 + r, as in exp_and_expm1 of vae.h.
inline F32 exponential(F32 x) {
  static constexpr float P[] = {0.5f, 0x1.555556p-3f, 0x1.55548p-5f, 0x1.11107ep-7f, 0x1.6d967p-10f, 0x1.a1b7e4p-13f};
  const F32 bounded =
      where_negative((I32)(x < -87.0f), splat(-87.0f), where_negative((I32)(x > 87.0f), splat(87.0f), x));
  const F32 shifted = fma(bounded, splat(0x1.715476p+0f), splat(0x1.8p+23f));
  const F32 n = shifted - 0x1.8p+23f;
  const F32 r = fma(n, splat(-0x1.7f7d1cp-20f), fma(n, splat(-0x1.62e4p-1f), bounded));
  const F32 scale = (F32)((((I32)shifted - 0x4B400000) + 127) << 23);
  return fma(scale, fma(r * r, horner(P, r), r), scale);
}
// Both functions have absolute errors below 4e-7.
inline F32 sigmoid(F32 x) { return 1.0f / (1.0f + exponential(-x)); }
inline F32 hyperbolic_tangent(F32 x) { return fma(splat(2.0f), sigmoid(2.0f * x), splat(-1.0f)); }

// The weights with the four gates of each kLanes units side by side: [units / kLanes, depth, 4, kLanes].
inline std::vector<float> gates_together(const float* weight, int width) {
  std::vector<float> out(4l * width * width);
  float* to = out.data();
  for (int unit = 0; unit < width; unit += kLanes)
    for (int k = 0; k < width; ++k)
      for (int gate = 0; gate < 4; ++gate)
        for (int lane = 0; lane < kLanes; ++lane)
          *to++ = weight[(gate * width + unit + lane) * static_cast<long>(width) + k];
  return out;
}

// The rows of a group's samples at one step.
struct Rows {
  float* gates[kGroup];
  float* hidden[kGroup];
  float* cell[kGroup];
};

inline void lstm(const Lstm& s, int encoder, const int* samples, int count) {
  const int width = s.width;
  const long gate_row = 4l * width * s.encoders, state_row = static_cast<long>(width) * s.encoders;
  const std::vector<float> panels = gates_together(s.weight_hh + encoder * 4l * width * width, width);
  std::vector<float> best(static_cast<std::size_t>(count) * width, -std::numeric_limits<float>::infinity());
  std::vector<std::int32_t> when(best.size(), 0);
  Rows at;
  for (int i = 0; i < count; ++i) {
    at.gates[i] = s.gates + s.starts[samples[i]] * gate_row + encoder * 4l * width;
    at.hidden[i] = s.hidden + s.starts[samples[i]] * state_row + encoder * static_cast<long>(width);
    at.cell[i] = s.cell + s.starts[samples[i]] * state_row + encoder * static_cast<long>(width);
    std::memset(at.hidden[i], 0, width * sizeof(float));
    std::memset(at.cell[i], 0, width * sizeof(float));
  }
  int active = count;
  for (int t = 0;; ++t) {
    while (active > 0 && s.lengths[samples[active - 1]] <= t) --active;
    if (active == 0) break;
    for (int unit = 0; unit < width; unit += kLanes) {
      const float* panel = panels.data() + 4l * unit * width;
      for_tiles(0, active, [&](int first, auto tile) {
        constexpr int kRows = decltype(tile)::value;
        F32 acc[kRows][4];
        const float* before[kRows];
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
          before[r] = at.hidden[first + r];
#pragma GCC unroll 4
          for (int gate = 0; gate < 4; ++gate) acc[r][gate] = load(at.gates[first + r] + gate * width + unit);
        }
        if (t > 0) multiply(before, panel, width, acc);
        for (int r = 0; r < kRows; ++r) {
          float* gates = at.gates[first + r] + unit;
          const F32 i = sigmoid(acc[r][0]), f = sigmoid(acc[r][1]), o = sigmoid(acc[r][3]);
          const F32 g = hyperbolic_tangent(acc[r][2]);
          const F32 c = fma(f, load(at.cell[first + r] + unit), i * g), h = o * hyperbolic_tangent(c);
          store(gates, i);
          store(gates + width, f);
          store(gates + 2 * width, g);
          store(gates + 3 * width, o);
          store(at.cell[first + r] + state_row + unit, c);
          store(at.hidden[first + r] + state_row + unit, h);
          float* top = best.data() + (first + r) * static_cast<long>(width) + unit;
          std::int32_t* time = when.data() + (first + r) * static_cast<long>(width) + unit;
          const I32 stays = (I32)(h <= load(top));  // NaN propagates
          I32 old;
          std::memcpy(&old, time, kBytes);
          const I32 now = (old & stays) | ((I32{} + t) & ~stays);
          store(top, where_negative(stays, load(top), h));
          std::memcpy(time, &now, kBytes);
        }
      });
    }
    for (int i = 0; i < active; ++i) {
      at.gates[i] += gate_row;
      at.hidden[i] += state_row;
      at.cell[i] += state_row;
    }
  }
  for (int i = 0; i < count; ++i) {
    const long to = samples[i] * state_row + encoder * static_cast<long>(width);
    for (int u = 0; u < width; ++u) {
      s.pooled[to + u] = s.lengths[samples[i]] > 0 ? best[i * static_cast<long>(width) + u] : 0.0f;
      s.argmax[to + u] = when[i * static_cast<long>(width) + u];
    }
  }
}

// d_hidden of the step before: the gradients of the gates times weight_hh [4 width, width].
template <int kVectors>
inline void back_one_step(const float* panels, int width, int active, float* const* d_gates, float* d_hidden) {
  constexpr int kColumns = kVectors * kLanes;
  for (int column = 0; column < width; column += kColumns) {
    const float* panel = panels + 4l * width * column;
    for_tiles(0, active, [&](int first, auto tile) {
      constexpr int kRows = decltype(tile)::value;
      F32 acc[kRows][kVectors] = {};
      const float* rows[kRows];
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) rows[r] = d_gates[first + r];
      multiply(rows, panel, 4 * width, acc);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
          store(d_hidden + (first + r) * static_cast<long>(width) + column + v * kLanes, acc[r][v]);
    });
  }
}

// weight [rows, width] cut into panels of `columns` columns: [width / columns, rows, columns].
inline std::vector<float> in_panels(const float* weight, int rows, int width, int columns) {
  std::vector<float> out(static_cast<std::size_t>(rows) * width);
  float* to = out.data();
  for (int column = 0; column < width; column += columns)
    for (int row = 0; row < rows; ++row, to += columns)
      std::memcpy(to, weight + static_cast<long>(row) * width + column, columns * sizeof(float));
  return out;
}

inline void lstm_backward(const LstmBackward& s, int encoder, const int* samples, int count) {
  const int width = s.width, vectors = width % (4 * kLanes) == 0 ? 4 : 1;
  const long gate_row = 4l * width * s.encoders, state_row = static_cast<long>(width) * s.encoders;
  const std::vector<float> panels =
      in_panels(s.weight_hh + encoder * 4l * width * width, 4 * width, width, vectors * kLanes);
  std::vector<float> d_hidden(static_cast<std::size_t>(count) * width), d_cell(d_hidden.size());
  std::vector<const float*> gates(count), cell(count);
  float* d_gates[kGroup];
  int active = 0;
  for (int i = 0; i < count; ++i) {
    float* last = s.d_gates + (s.starts[samples[i]] + s.lengths[samples[i]]) * gate_row + encoder * 4l * width;
    std::memset(last, 0, 4l * width * sizeof(float));  // the unused row
  }
  for (int t = static_cast<int>(s.lengths[samples[0]]) - 1; t >= 0; --t) {
    while (active < count && s.lengths[samples[active]] > t) ++active;
    for (int i = 0; i < active; ++i) {
      const long row = s.starts[samples[i]] + t;
      gates[i] = s.gates + row * gate_row + encoder * 4l * width;
      d_gates[i] = s.d_gates + row * gate_row + encoder * 4l * width;
      cell[i] = s.cell + row * state_row + encoder * static_cast<long>(width);
      const long pooled = samples[i] * state_row + encoder * static_cast<long>(width);
      for (int u = 0; u < width; u += kLanes) {
        alignas(64) float won[kLanes];
        for (int lane = 0; s.argmax != nullptr && lane < kLanes; ++lane)
          won[lane] = s.argmax[pooled + u + lane] == t ? s.grad[pooled + u + lane] : 0.0f;
        const float* into =
            s.argmax != nullptr ? won : s.grad + row * state_row + encoder * static_cast<long>(width) + u;
        float* dh_at = d_hidden.data() + i * static_cast<long>(width) + u;
        float* dc_at = d_cell.data() + i * static_cast<long>(width) + u;
        const F32 in = load(gates[i] + u), f = load(gates[i] + width + u);
        const F32 g = load(gates[i] + 2 * width + u), o = load(gates[i] + 3 * width + u);
        const F32 tanh_c = hyperbolic_tangent(load(cell[i] + state_row + u));
        const F32 dh = load(dh_at) + load(into);
        const F32 dc = fma(dh * o, fma(-tanh_c, tanh_c, splat(1.0f)), load(dc_at));
        store(d_gates[i] + u, dc * g * (in * (1.0f - in)));
        store(d_gates[i] + width + u, dc * load(cell[i] + u) * (f * (1.0f - f)));
        store(d_gates[i] + 2 * width + u, dc * in * fma(-g, g, splat(1.0f)));
        store(d_gates[i] + 3 * width + u, dh * tanh_c * (o * (1.0f - o)));
        store(dc_at, dc * f);
      }
    }
    if (t == 0) break;
    if (vectors == 4) back_one_step<4>(panels.data(), width, active, d_gates, d_hidden.data());
    else back_one_step<1>(panels.data(), width, active, d_gates, d_hidden.data());
  }
}

}  // namespace nmer_fast::NMER_FAST_ISA

#else  // NMER_FAST_ISA

#include <algorithm>
#include <numeric>
#include <vector>

#include "sequences.h"

// ---------------------------------------------------------------- whole batches

namespace nmer_fast {

// Calls f(encoder, samples, count) for every group of samples and every encoder, in parallel.
void for_groups(const auto& parallel, const Sequences& sequences, int encoders, const auto& f) {
  const int count = static_cast<int>(sequences.count()), groups = (count + kGroup - 1) / kGroup;
  std::vector<int> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return sequences.lengths[a] > sequences.lengths[b]; });
  parallel(0, static_cast<Index>(encoders) * groups, 1, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const int first = static_cast<int>(task % groups) * kGroup;
      f(static_cast<int>(task / groups), order.data() + first, std::min(kGroup, count - first));
    }
  });
}

// The input's products with weight_ih, then the recurrence. weight_ih [projection.columns, projection.depth] is packed
// into `panels`, of the same size, to which projection.panels points; projection.out is s.gates.
void lstm_recurrence(const auto& parallel, const auto& k, const Sequences& sequences, const Product& projection,
                     const float* weight_ih, float* panels, const Lstm& s) {
  constexpr Index kTogether = 240;  // rows that use a panel while a cache holds it
  k.pack_columns(weight_ih, projection.columns, 1, 0, projection.depth, panels);
  const Index across = projection.columns / k.panel_of(projection.columns);
  const Index parts = (sequences.rows() + kTogether - 1) / kTogether;
  parallel(0, parts * across, 1, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const Index first = task / across * kTogether, last = std::min(first + kTogether, sequences.rows());
      k.product(projection, static_cast<int>(first), static_cast<int>(last), static_cast<int>(task % across));
    }
  });
  for_groups(parallel, sequences, s.encoders,
             [&](int encoder, const int* samples, int count) { k.lstm(s, encoder, samples, count); });
}

void lstm_recurrence_backward(const auto& parallel, const auto& k, const Sequences& sequences, const LstmBackward& s) {
  for_groups(parallel, sequences, s.encoders,
             [&](int encoder, const int* samples, int count) { k.lstm_backward(s, encoder, samples, count); });
}

}  // namespace nmer_fast

#endif  // NMER_FAST_ISA
