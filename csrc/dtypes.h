// The element types, and how a block of them becomes float32 and back. Loops are plain, for the compiler to vectorise.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
// The exponent moves by a multiplication with 2^112, which normalises subnormals too; infinity and NaN are put right.
inline float widen(Half x) {
  const std::uint32_t shifted = std::uint32_t{x.bits & 0x7FFFu} << 13;
  const auto magnitude = std::bit_cast<std::uint32_t>(std::bit_cast<float>(shifted) * 0x1p112f);
  const std::uint32_t special = shifted >= 0x0F800000u ? shifted | 0x70000000u : magnitude;
  return std::bit_cast<float>(special | std::uint32_t{x.bits & 0x8000u} << 16);
}

// From what is computed in to T; the two wide types are narrowed by nothing.
template <class T>
T narrow(decltype(widen(T{})) x) {
  return x;
}
// To nearest, ties to even; NaN stays NaN.
template <>
inline BFloat16 narrow<BFloat16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return {static_cast<std::uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded)};
}
// To nearest, ties to even. Adding 2^(e + 13), for e of the result's last place, rounds in the float adder.
template <>
inline Half narrow<Half>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  const std::uint32_t normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
  const float tiny = std::bit_cast<float>(magnitude) + 0.5f;  // an ulp of 2^-24, half's smallest
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(tiny) - 0x3F000000;
  std::uint32_t out = magnitude < 0x38800000 ? subnormal : normal;
  out = magnitude >= 0x477FF000 ? 0x7C00 : out;  // 65520 and more
  out = magnitude > 0x7F800000 ? 0x7E00 : out;
  return {static_cast<std::uint16_t>(sign | out)};
}

// What is computed in: float64 for float64, float32 for the rest.
template <class T>
using Wide = decltype(widen(T{}));

// a b + c, rounded once where the machine can; the compiler vectorises it.
template <class W>
inline W multiply_add(W a, W b, W c) {
#if defined(__FMA__) || defined(__aarch64__)
  if constexpr (sizeof(W) == 4) return __builtin_fmaf(a, b, c);
  else return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace nmer_fast::NMER_FAST_ISA
