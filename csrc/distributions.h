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
//
// A transform makes the four values of each of kQuads quads, whose lanes are those of interleaved_lane, in the order of
// the elements. Of the quads of two such vectors it can also make the first value or the first two alone, for samples
// that are that short; quad_of_lane says where they stand.

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

// ---------------------------------------------------------------- float64
//
// The parts of the transforms in float64. u is the float32 value; the polynomials keep eps within 1e-12 of the
// definition, with the same bits wherever there is fused multiply-add.

// The numbers of the even and of the odd lanes of a vector of 32-bit lanes.
struct TwoF64 {
  F64 even, odd;
};

template <std::size_t N>
inline F64 horner(const double (&c)[N], F64 x) {
  F64 sum = splat(c[N - 1]);
#pragma GCC unroll 16
  for (std::size_t i = 1; i < N; ++i) sum = fma(sum, x, splat(c[N - 1 - i]));
  return sum;
}

// A small unsigned integer in each lane, less `minus`: the integer is put into the mantissa of 2^52.
inline F64 small_to_double(U64 x, double minus) { return (F64)(x | 0x4330000000000000) - (0x1p52 + minus); }

// u in (0, 1] as unit<Bits> has it. It is no subnormal, so its bits are moved.
template <int Bits>
inline TwoF64 unit64(U32 w) {
  const U64 bits = (U64)unit<Bits>(w);
  constexpr std::uint64_t bias = std::uint64_t{1023 - 127} << 52;
  return {(F64)((bits << 32 >> 3) + bias), (F64)((bits >> 32 << 29) + bias)};
}

// -2 ln u for u in [2^-33, 1]. u = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); with s = f / (2 + f), -2 ln(1 + f)
// is -4 atanh(s) = -4 s + s^3 P(s^2), where P is a minimax polynomial of degree 5 (relative error 2^-50).
inline F64 minus_two_log64(F64 u) {
  static constexpr double P[] = {-0x1.55555555553b8p+0, -0x1.9999999b8677ap-1, -0x1.2492462af84abp-1,
                                 -0x1.c71fccd953895p-2, -0x1.7382dbfa1ce75p-2, -0x1.546a3155bacbfp-2};
  constexpr std::uint64_t one = std::uint64_t{1023} << 52, root_half = 0x3FE6A09E667F3BCD;
  const U64 bits = (U64)u;
  const U64 exponent = (bits + (one - root_half)) >> 52;  // e + 1023
  const F64 f = (F64)(bits + one - (exponent << 52)) - 1.0;
  const F64 s = f / (f + 2.0), z = s * s;
  const F64 q = fma(s * z, horner(P, z), -4.0 * s);
  return fma(small_to_double(exponent, 1023), splat(-0x1.62e42fefa39efp+0), q);  // -2 ln 2
}

struct SinCos64 {
  F64 sin, cos;
};

// As sin_cos, of the low half of each lane; the polynomials' absolute error is below 2^-46.
inline SinCos64 sin_cos64(U64 w) {
  static constexpr double S[] = {-0x1.555555555516bp-3, 0x1.1111110fd3d43p-7, -0x1.a019fd9b35ee5p-13,
                                 0x1.71d9a9f41c5a9p-19, -0x1.aa285788aaa42p-26};
  static constexpr double C[] = {0x1.5555555555437p-5, -0x1.6c16c16b614fcp-10, 0x1.a019ff53a6a1cp-16,
                                 -0x1.27e25f4bb4e6fp-22, 0x1.1c81c3531fff2p-29};
  constexpr std::uint64_t sign = std::uint64_t{1} << 63;
  const U64 turned = w + (1u << 29);                                                   // bits 30 and 31 are the quarter
  const F64 x = small_to_double(turned & 0x3FFFFFFF, 0x1p29) * 0x1.921fb54442d18p-30;  // pi / 2^31
  const F64 z = x * x;
  const F64 s = fma(x * z, horner(S, z), x);
  const F64 c = fma(z * z, horner(C, z), fma(z, splat(-0.5), splat(1.0)));
  const I64 odd = (I64)(turned << 33);
  const U64 sin_sign = (turned << 32) & sign, cos_sign = ((turned + (1u << 30)) << 32) & sign;
  return {(F64)((U64)where_negative(odd, c, s) ^ sin_sign), (F64)((U64)where_negative(odd, s, c) ^ cos_sign)};
}

// ---------------------------------------------------------------- from words to values

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
  template <int Kept>
  void first(const U64 (&a)[4], const U64 (&b)[4], float* out) const {
    const F32 r = square_root(minus_two_log(unit<32>(pack(a[0], b[0]))));
    const SinCos angle = sin_cos(pack(a[1], b[1]));
    const F32 one = r * angle.cos;
    if constexpr (Kept == 1) return store(out, one);
    const F32 two = r * angle.sin;
    store(out, (F32)pack((U64)one, (U64)two));
    store(out + kLanes, (F32)pack((U64)one >> 32, (U64)two >> 32));
  }
  void operator()(const U64 (&w)[4], double* out) const {
    const auto [r0, r1] = roots(w[0], w[2]);
    const InterleavedPairs first = pairs(r0, w[1]), second = pairs(r1, w[3]);
    store_blocks(out, first.lower, second.lower);
    store_blocks(out + 2 * kQuads, first.upper, second.upper);
  }
  template <int Kept>
  void first(const U64 (&a)[4], const U64 (&b)[4], double* out) const {
    const auto [r0, r1] = roots(a[0], b[0]);
    if constexpr (Kept == 1) {
      store(out, r0 * sin_cos64(a[1]).cos);
      store(out + kQuads, r1 * sin_cos64(b[1]).cos);
    } else {
      const InterleavedPairs first = pairs(r0, a[1]), second = pairs(r1, b[1]);
      store(out, first.lower);
      store(out + kQuads, first.upper);
      store(out + 2 * kQuads, second.lower);
      store(out + 3 * kQuads, second.upper);
    }
  }

 private:
  static TwoF64 roots(U64 w0, U64 w1) {
    const TwoF64 u = unit64<32>(pack(w0, w1));
    return {square_root(minus_two_log64(u.even)), square_root(minus_two_log64(u.odd))};
  }
  static InterleavedPairs pairs(F64 r, U64 w) {
    const SinCos64 angle = sin_cos64(w);
    return interleave(r * angle.cos, r * angle.sin);
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
  template <int Kept>
  void first(const U64 (&a)[4], const U64 (&b)[4], float* out) const {
    if constexpr (Kept == 1) return store(out, map(pack(a[0], b[0])));
    store(out, map(pack(a[0], a[1])));
    store(out + kLanes, map(pack(b[0], b[1])));
  }
  void operator()(const U64 (&w)[4], double* out) const {
    const TwoF64 one = map.pair(pack(w[0], w[1])), two = map.pair(pack(w[2], w[3]));
    const auto first = interleave(one.even, one.odd), second = interleave(two.even, two.odd);
    store_blocks(out, first.lower, second.lower);
    store_blocks(out + 2 * kQuads, first.upper, second.upper);
  }
  template <int Kept>
  void first(const U64 (&a)[4], const U64 (&b)[4], double* out) const {
    if constexpr (Kept == 1) {
      const TwoF64 values = map.pair(pack(a[0], b[0]));
      store(out, values.even);
      store(out + kQuads, values.odd);
    } else {
      for (const auto* w : {&a, &b}) {
        const TwoF64 values = map.pair(pack((*w)[0], (*w)[1]));
        const auto [lower, upper] = interleave(values.even, values.odd);
        store(out, lower);
        store(out + kQuads, upper);
        out += 2 * kQuads;
      }
    }
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
  TwoF64 pair(U32 w) const { return {value((U64)w & 0xFFFFFFFF), value((U64)w >> 32)}; }

 private:
  F64 value(U64 w) const {
    const U64 present = (U64)((I64)(w >> 1) <= std::int64_t{last});
    return (F64)(((U64)splat(1.0) | (~w << 63)) & present);
  }
};

// sqrt(3) (2 u - 1).
struct Uniform {
  F32 operator()(U32 w) const { return fma(unit<32>(w), splat(0x1.bb67aep+1f), splat(-0x1.bb67aep+0f)); }
  TwoF64 pair(U32 w) const {
    const TwoF64 u = unit64<32>(w);
    return {(2.0 * u.even - 1.0) * std::numbers::sqrt3, (2.0 * u.odd - 1.0) * std::numbers::sqrt3};
  }
};

// The magnitude is -ln u / sqrt(2), where u has 31 bits; bit 0 of the word is the sign.
struct Laplace {
  F32 operator()(U32 w) const {
    return signed_by_bit_0(minus_two_log(unit<31>(w >> 1)) * 0x1.6a09e6p-2f, w);  // 1 / (2 sqrt(2))
  }
  TwoF64 pair(U32 w) const {
    const TwoF64 u = unit64<31>(w >> 1);
    return {magnitude(u.even, (U64)w << 63), magnitude(u.odd, (U64)w >> 32 << 63)};
  }

 private:
  // `bit` is bit 0 of the word, as the lane's highest bit.
  static F64 magnitude(F64 u, U64 bit) {
    return (F64)((U64)(minus_two_log64(u) * 0x1.6a09e667f3bcdp-2) | (bit ^ (std::uint64_t{1} << 63)));
  }
};

// Where the values of each lane stand if the first `Kept` values of each quad are kept: the number of the lane's quad
// among those of two vectors, of which `position` counts the lanes. 4 means all.
template <class Float, int Kept>
constexpr int quad_of_lane(int position) {
  const int vector = position / kQuads, lane = position % kQuads;
  if (Kept == 4 || (Kept == 2 && sizeof(Float) == 8)) return vector * kQuads + interleaved_lane(lane);
  return Kept == 1 && sizeof(Float) == 4 ? 2 * lane + vector : position;
}

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

}  // namespace nmer_fast::NMER_FAST_ISA

#endif  // NMER_FAST_ISA
