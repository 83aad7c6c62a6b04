// The element types, and their conversion to and from the type that is computed in: float64 for float64, else float32.
#pragma once

namespace nmer_fast {

enum class Type { float32, bfloat16, float16, float64 };

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

struct BFloat16 {
  std::uint16_t bits;
};
struct Half {
  std::uint16_t bits;
};

template <class T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---------------------------------------------------------------- a step of elements

inline void widen(const BFloat16* from, float* to) {
  for (int i = 0; i < kStep; ++i) to[i] = std::bit_cast<float>(std::uint32_t{from[i].bits} << 16);
}

// Rounds to nearest, ties to even. NaN stays NaN.
inline void narrow(const float* from, BFloat16* to) {
  for (int i = 0; i < kStep; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(from[i]);
    const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    to[i].bits = static_cast<std::uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
  }
}

#if defined(__AVX512F__)
inline void widen(const Half* from, float* to) {
  _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}
inline void narrow(const float* from, Half* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(_mm512_loadu_ps(from), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif defined(__F16C__)
inline void widen(const Half* from, float* to) {
  for (int i = 0; i < kStep; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
}
inline void narrow(const float* from, Half* to) {
  for (int i = 0; i < kStep; i += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
}
#else
// A multiplication by 2^112 moves the exponent and also normalises subnormals. Infinity and NaN are corrected
// afterwards.
inline void widen(const Half* from, float* to) {
  for (int i = 0; i < kStep; ++i) {
    const std::uint32_t shifted = std::uint32_t{from[i].bits & 0x7FFFu} << 13;
    const auto magnitude = std::bit_cast<std::uint32_t>(std::bit_cast<float>(shifted) * 0x1p112f);
    const std::uint32_t special = shifted >= 0x0F800000u ? shifted | 0x70000000u : magnitude;
    to[i] = std::bit_cast<float>(special | std::uint32_t{from[i].bits & 0x8000u} << 16);
  }
}
// Rounds to nearest, ties to even. For a subnormal result the float adder rounds: 0.5 has the ulp of Half's smallest.
inline void narrow(const float* from, Half* to) {
  for (int i = 0; i < kStep; ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(from[i]);
    const std::uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
    const std::uint32_t normal = (magnitude + 0xFFF + ((magnitude >> 13) & 1) - 0x38000000) >> 13;
    const float tiny = std::bit_cast<float>(magnitude) + 0.5f;  // an ulp of 2^-24, half's smallest
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(tiny) - 0x3F000000;
    std::uint32_t out = magnitude < 0x38800000 ? subnormal : normal;
    out = magnitude >= 0x477FF000 ? 0x7C00 : out;  // 65520 and more
    out = magnitude > 0x7F800000 ? 0x7E00 : out;
    to[i].bits = static_cast<std::uint16_t>(sign | out);
  }
}
#endif

// ---------------------------------------------------------------- a block of elements, in whole steps

// n elements in the type that is computed in, then zeros to the end of the step. The result is `from` itself where it
// already is that, else `buffer`.
template <class T>
const Wide<T>* widened(const T* from, int n, Wide<T>* buffer) {
  const int whole = n / kStep * kStep;
  if constexpr (std::is_same_v<T, Wide<T>>) {
    if (whole == n) return from;
    std::memcpy(buffer, from, whole * sizeof(T));
  } else {
    for (int i = 0; i < whole; i += kStep) widen(from + i, buffer + i);
  }
  if (whole < n) {
    T rest[kStep] = {};
    std::memcpy(rest, from + whole, (n - whole) * sizeof(T));
    if constexpr (std::is_same_v<T, Wide<T>>) std::memcpy(buffer + whole, rest, sizeof(rest));
    else widen(rest, buffer + whole);
  }
  return buffer;
}

// Where to store n results in whole steps: `to` itself if they fit there, else `buffer`, from which `narrowed` then
// converts them.
template <class T>
Wide<T>* place(T* to, int n, Wide<T>* buffer) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    if (n % kStep == 0) return to;
  }
  return buffer;
}
template <class T>
void narrowed(const Wide<T>* from, int n, T* to) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    if (from != to) std::memcpy(to, from, n * sizeof(T));
  } else {
    const int whole = n / kStep * kStep;
    for (int i = 0; i < whole; i += kStep) narrow(from + i, to + i);
    if (whole == n) return;
    T rest[kStep];
    narrow(from + whole, rest);
    std::memcpy(to + whole, rest, (n - whole) * sizeof(T));
  }
}

// ---------------------------------------------------------------- from an element type to its functions

// Calls f with a value of the element type.
template <class F>
void with_type(Type type, F f) {
  switch (type) {
    case Type::float32: return f(float{});
    case Type::bfloat16: return f(BFloat16{});
    case Type::float16: return f(Half{});
    case Type::float64: return f(double{});
  }
}

template <class T>
const T* in(T, const void* p) {
  return static_cast<const T*>(p);
}
template <class T>
T* out(T, void* p) {
  return static_cast<T*>(p);
}

}  // namespace nmer_fast::NMER_FAST_ISA

#endif  // NMER_FAST_ISA
