// The kinds of noise: their names, and how the generator's words become values (docs/noise_contract.md). To add a kind,
// add its name to NMER_FAST_KINDS; -Werror=switch then points at every switch of this file that lacks it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace nmer_fast {

#define NMER_FAST_KINDS(KIND) KIND(gaussian) KIND(impulse) KIND(uniform) KIND(laplace)

#define NMER_FAST_ENUMERATOR(name) name,
enum class Kind { NMER_FAST_KINDS(NMER_FAST_ENUMERATOR) };
#undef NMER_FAST_ENUMERATOR

#define NMER_FAST_NAMED(name) std::pair<std::string_view, Kind>{#name, Kind::name},
inline constexpr std::array kKinds{NMER_FAST_KINDS(NMER_FAST_NAMED)};
#undef NMER_FAST_NAMED

// The kind that has this name; nothing for an unknown name.
constexpr std::optional<Kind> kind_named(std::string_view name) {
  for (const auto& [known, kind] : kKinds) {
    if (known == name) return kind;
  }
  return std::nullopt;
}

// The error message for an unknown name.
inline std::string unknown_kind(std::string_view name) {
  std::string message = "kind: expected one of ";
  for (const auto& [known, kind] : kKinds) {
    if (kind != kKinds.front().second) message += ", ";
    message += known;
  }
  return message.append(", got ").append(name);
}

}  // namespace nmer_fast

#ifdef NMER_FAST_ISA

#include <cmath>
#include <numbers>

#include "philox.h"
#include "simd.h"

// ---------------------------------------------------------------- float32
//
// The polynomials and the order of their operations are the same in every backend: with fused multiply-add they give
// the same bits everywhere.

namespace nmer_fast::NMER_FAST_ISA {

// c[0] + c[1] x + ...
template <std::size_t N>
inline F32 horner(const float (&c)[N], F32 x) {
  F32 sum = splat(c[N - 1]);
#pragma GCC unroll 16
  for (std::size_t i = 1; i < N; ++i) sum = fma(sum, x, splat(c[N - 1 - i]));
  return sum;
}

// A float32 in (0, 1]: w 2^-32 + 2^-33, or w 2^-31 + 2^-32 for a word of 31 bits.
template <int Bits>
inline F32 unit(U32 w) {
  constexpr float scale = 1.0f / static_cast<float>(1ull << Bits);
  return fma(to_float(w), splat(scale), splat(scale / 2));
}

// -2 ln u for u in [2^-33, 1]. u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); then -2 ln(1 + f) is
// -2 f + f^2 + f^3 P(f), where P is a minimax polynomial of degree 7 (relative error 2^-27).
inline F32 minus_two_log(F32 u) {
  static constexpr float P[] = {-0x1.555554p-1f, 0x1.000226p-1f, -0x1.99a008p-2f, 0x1.547246p-2f,
                                -0x1.22da18p-2f, 0x1.0d8534p-2f, -0x1.055b8ap-2f, 0x1.38b618p-3f};
  const I32 bits = (I32)u;
  const I32 e = (bits - 0x3F3504F3) >> 23;
  const F32 f = (F32)(bits - (e << 23)) - 1.0f;
  const F32 q = fma(f, fma(f, horner(P, f), splat(1.0f)), splat(-2.0f));
  return fma(to_float(e), splat(-0x1.62e43p+0f), f * q);  // -2 ln 2
}

struct SinCos {
  F32 sin, cos;
};

// Sine and cosine of the angle 2 pi w / 2^32. The multiple of pi/2 is subtracted in integers, which is exact; the rest
// is at most pi/4, and its sine and cosine are minimax polynomials (absolute error below 2^-28).
inline SinCos sin_cos(U32 w) {
  static constexpr float S[] = {-0x1.555546p-3f, 0x1.11076p-7f, -0x1.994eb4p-13f};
  static constexpr float C[] = {0x1.55554ap-5f, -0x1.6c0c8cp-10f, 0x1.9a025cp-16f};
  const I32 quarter = (I32)(w + (1u << 29)) >> 30;
  const I32 rest = (I32)(w - ((U32)quarter << 30));
  const F32 x = to_float(rest) * 0x1.921fb6p-30f;  // pi / 2^31
  const F32 z = x * x;
  const F32 s = fma(x * z, horner(S, z), x);
  const F32 c = fma(z * z, horner(C, z), fma(z, splat(-0.5f), splat(1.0f)));
  const I32 odd = quarter << 31;
  const I32 sin_sign = (quarter & 2) << 30, cos_sign = ((quarter + 1) & 2) << 30;
  return {(F32)((I32)where_negative(odd, c, s) ^ sin_sign), (F32)((I32)where_negative(odd, s, c) ^ cos_sign)};
}

// Box-Muller: words (0, 1) and words (2, 3) of each quad give a radius and an angle. The values are r0 cos, r0 sin, r1
// cos and r1 sin.
struct Gaussian {
  void operator()(const U64 (&w)[4], float* out) const {
    const F32 r = square_root(minus_two_log(unit<32>(pack(w[0], w[2]))));
    const SinCos angle = sin_cos(pack(w[1], w[3]));
    const auto [lower, upper] = interleave(r * angle.cos, r * angle.sin);
    store(out, lower);
    store(out + kLanes, upper);
  }
};

// The kinds that need one word for each element: Map turns each word into a value, in the order of the elements.
template <class Map>
struct ByWord {
  Map map;
  void operator()(const U64 (&w)[4], float* out) const {
    const auto [lower, upper] = interleave_pairs(pack(w[0], w[1]), pack(w[2], w[3]));
    store(out, map(lower));
    store(out + kLanes, map(upper));
  }
};

// The magnitude, with a minus sign where bit 0 of the word is not set.
inline F32 signed_by_bit_0(F32 magnitude, U32 w) { return (F32)((U32)magnitude | ((~w & 1) << 31)); }

// -1, 0 or +1; nonzero where (w >> 1) < threshold. `last` is threshold - 1, which fits a signed lane even at p = 1.
struct Impulse {
  std::int32_t last;
  F32 operator()(U32 w) const {
    const U32 present = (U32)((I32)(w >> 1) <= last);
    return (F32)((U32)signed_by_bit_0(splat(1.0f), w) & present);
  }
};

// sqrt(3) (2 u - 1).
struct Uniform {
  F32 operator()(U32 w) const { return fma(unit<32>(w), splat(0x1.bb67aep+1f), splat(-0x1.bb67aep+0f)); }
};

// The magnitude is -ln u / sqrt(2), where u has 31 bits; bit 0 of the word is the sign.
struct Laplace {
  F32 operator()(U32 w) const {
    return signed_by_bit_0(minus_two_log(unit<31>(w >> 1)) * 0x1.6a09e6p-2f, w);  // 1 / (2 sqrt(2))
  }
};

// Calls f with the kind's transform from words to values. `last` is the parameter of Impulse.
template <class F>
void with_transform(Kind kind, std::int32_t last, const F& f) {
  switch (kind) {
    case Kind::gaussian: return f(Gaussian{});
    case Kind::impulse: return f(ByWord{Impulse{last}});
    case Kind::uniform: return f(ByWord{Uniform{}});
    case Kind::laplace: return f(ByWord{Laplace{}});
  }
}

// ---------------------------------------------------------------- float64
//
// The definition of the noise, which float64 features get: u is the float32 value, and all other functions are libm's.

inline double unit64(std::uint32_t w, int bits) {
  const float scale = std::ldexp(1.0f, -bits);
  const float product = static_cast<float>(w) * scale;
  return product + scale / 2;
}

// Box-Muller on two words.
inline void box_muller64(std::uint32_t radius, std::uint32_t turn, double* out) {
  const double r = std::sqrt(-2 * std::log(unit64(radius, 32)));
  const double angle = static_cast<std::int32_t>(turn) * (std::numbers::pi / 0x1p31);
  out[0] = r * std::cos(angle);
  out[1] = r * std::sin(angle);
}

template <class Map>
void by_word64(const Words& w, const Map& map, double* out) {
  for (int j = 0; j < 4; ++j) out[j] = map(w[j], w[j] & 1 ? 1.0 : -1.0);
}

// The four values that a quad's words give.
inline void quad64(Kind kind, std::int32_t last, const Words& w, double* out) {
  switch (kind) {
    case Kind::gaussian:
      box_muller64(w[0], w[1], out);
      box_muller64(w[2], w[3], out + 2);
      return;
    case Kind::impulse:
      return by_word64(
          w, [=](std::uint32_t x, double sign) { return static_cast<std::int32_t>(x >> 1) <= last ? sign : 0.0; }, out);
    case Kind::uniform:
      return by_word64(w, [](std::uint32_t x, double) { return std::numbers::sqrt3 * (2 * unit64(x, 32) - 1); }, out);
    case Kind::laplace:
      return by_word64(
          w, [](std::uint32_t x, double sign) { return sign * -std::log(unit64(x >> 1, 31)) / std::numbers::sqrt2; },
          out);
  }
}

}  // namespace nmer_fast::NMER_FAST_ISA

#endif  // NMER_FAST_ISA
