// Small matrix products, which the kernels fuse with the operations before and after them. The rows of one factor may
// stand anywhere; the other factor is packed in panels, each a few vectors of columns wide.
#pragma once

namespace nmer_fast {

// A matrix product with a bias for each column. pack_columns packs one factor; the number of columns is a multiple
// of 16.
struct Product {
  int depth, columns;
  const float* a;       // [rows, depth]
  const float* panels;  // [columns, depth], packed
  const float* bias;
  float* out;  // [rows, columns]
};

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <cstring>
#include <type_traits>

#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr int kTile = kBytes == 64 ? 6 : 3;  // samples whose sums a tile holds in registers, four vectors each

// sums += rows times a panel [depth, kVectors * kLanes]. It is not inlined, because the compiler would then keep the
// sums in memory.
template <int kRows, int kVectors>
[[gnu::noinline]] void multiply(const float* const* rows, const float* panel, int depth, F32 (&sums)[kRows][kVectors]) {
  F32 acc[kRows][kVectors];
  std::memcpy(acc, sums, sizeof(acc));
  for (int k = 0; k < depth; ++k) {
    F32 b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = load(panel + (k * kVectors + v) * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const F32 a = splat(rows[r][k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(a, b[v], acc[r][v]);
    }
  }
  std::memcpy(sums, acc, sizeof(acc));
}

// Calls f(first row, rows) for each tile, whose number of rows is a compile-time constant: kTile, then the rest.
template <int kRows = kTile, class F>
inline void for_tiles(int begin, int end, const F& f) {
  for (; begin + kRows <= end; begin += kRows) f(begin, std::integral_constant<int, kRows>{});
  if constexpr (kRows > 1) {
    if (begin < end) for_tiles<kRows - 1>(begin, end, f);
  }
}

// The columns of a panel: those of four vectors, or of one vector where four do not divide the columns.
inline int panel_of(int columns) { return columns % (4 * kLanes) == 0 ? 4 * kLanes : kLanes; }

// weight[:, tap] of weight [columns, size, dims] as panels [columns / panel, dims, panel].
inline void pack_columns(const float* weight, int columns, int size, int tap, int dims, float* panels) {
  const int panel = panel_of(columns);
  for (int first = 0; first < columns; first += panel)
    for (int d = 0; d < dims; ++d)
      for (int c = 0; c < panel; ++c) *panels++ = weight[(static_cast<long>(first + c) * size + tap) * dims + d];
}

// out [rows, columns] = bias + a [rows, depth] times one panel's columns, for rows `begin` to `end - 1`.
template <int kVectors>
inline void product_panel(const Product& s, int begin, int end, int panel) {
  constexpr int kAcross = kVectors * kLanes;
  const float* columns = s.panels + static_cast<long>(panel) * kAcross * s.depth;
  for_tiles(begin, end, [&](int first, auto tile) {
    constexpr int kRows = decltype(tile)::value;
    F32 acc[kRows][kVectors];
    const float* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
      rows[r] = s.a + static_cast<long>(first + r) * s.depth;
      for (int v = 0; v < kVectors; ++v) acc[r][v] = load(s.bias + panel * kAcross + v * kLanes);
    }
    multiply(rows, columns, s.depth, acc);
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v)
        store(s.out + static_cast<long>(first + r) * s.columns + panel * kAcross + v * kLanes, acc[r][v]);
  });
}
inline void product(const Product& s, int begin, int end, int panel) {
  if (panel_of(s.columns) == kLanes) product_panel<1>(s, begin, end, panel);
  else product_panel<4>(s, begin, end, panel);
}

}  // namespace nmer_fast::NMER_FAST_ISA

#endif  // NMER_FAST_ISA
