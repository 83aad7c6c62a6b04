// Small matrix products, which the kernels fuse with what comes before and after: rows of one factor wherever they stand,
// the other in panels of a few vectors' columns.
#pragma once

#include <cstring>
#include <type_traits>

#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr int kTile = kBytes == 64 ? 6 : 3;  // samples whose sums a tile holds in registers, four vectors each

// sums += rows' values times kVectors columns of a panel [depth, kVectors * kLanes]. A function of its own, or the compiler
// keeps the sums in memory.
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

// Calls f with the rows of each tile as a constant: kTile of them, then what is left.
template <int kRows = kTile, class F>
inline void for_tiles(int begin, int end, const F& f) {
  for (; begin + kRows <= end; begin += kRows) f(begin, std::integral_constant<int, kRows>{});
  if constexpr (kRows > 1) {
    if (begin < end) for_tiles<kRows - 1>(begin, end, f);
  }
}

}  // namespace nmer_fast::NMER_FAST_ISA
