// The vectors that the kernels are written in: 32-bit lanes, and the 64-bit lanes that Philox multiplies in.
//
// This header is compiled once for each instruction set, with the set's flags and in the set's namespace
// (NMER_FAST_ISA), so that no inline function of one set can serve another. Arithmetic uses the compiler's vector
// extension; the functions below are the operations that the extension has no operator for.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace nmer_fast::NMER_FAST_ISA {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
inline constexpr int kBytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int kBytes = 32;
#else
inline constexpr int kBytes = 16;
#endif
inline constexpr int kLanes = kBytes / 4;  // lanes of 32 bits
inline constexpr int kQuads = kBytes / 8;  // quads whose Philox words stand in one vector of 64-bit lanes
inline constexpr int kStep = 16;           // elements that a loop takes at a time, whatever the size of the vectors

typedef std::uint64_t U64 __attribute__((vector_size(kBytes)));
typedef std::uint32_t U32 __attribute__((vector_size(kBytes)));
typedef std::int64_t I64 __attribute__((vector_size(kBytes)));
typedef std::int32_t I32 __attribute__((vector_size(kBytes)));
typedef float F32 __attribute__((vector_size(kBytes)));
typedef double F64 __attribute__((vector_size(kBytes)));
typedef std::int32_t HalfI32 __attribute__((vector_size(kBytes / 2)));  // as many lanes as F64
typedef float Half32 __attribute__((vector_size(kBytes / 2)));

template <class Float>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef F32 type;
};
template <>
struct VectorOf<double> {
  typedef F64 type;
};
template <class Float>
using Vector = typename VectorOf<Float>::type;

inline U64 splat(std::uint64_t value) { return U64{} + value; }
inline F32 splat(float value) { return value - F32{}; }  // -0 stays -0
inline F64 splat(double value) { return value - F64{}; }

template <class Float>
Vector<Float> load(const Float* from) {
  Vector<Float> x;
  __builtin_memcpy(&x, from, kBytes);
  return x;
}
inline U64 load_words(const std::uint64_t* from) {
  U64 x;
  __builtin_memcpy(&x, from, kBytes);
  return x;
}
inline void store(float* to, F32 x) { __builtin_memcpy(to, &x, kBytes); }
inline void store(double* to, F64 x) { __builtin_memcpy(to, &x, kBytes); }

// As many elements as F64 has lanes, converted to double.
inline F64 load_double(const double* from) { return load(from); }
inline F64 load_double(const float* from) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F64)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#elif defined(__AVX2__) && defined(__FMA__)
  return (F64)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
  return F64{from[0], from[1]};
#endif
}

// The 64-bit products of the low halves of 64-bit lanes.
inline U64 multiply_low(U64 a, U64 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (U64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && defined(__FMA__)
  return (U64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (U64)_mm_mul_epu32((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
  return (U64)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
#else
  return (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF);
#endif
}

// a * b + c, rounded once where the machine has fused multiply-add.
inline F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

inline F64 fma(F64 a, F64 b, F64 c) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (F64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

inline F32 square_root(F32 x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F32)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
  return (F32)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
  return (F32)vsqrtq_f32((float32x4_t)x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

inline F64 square_root(F64 x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F64)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F64)_mm256_sqrt_pd((__m256d)x);
#elif defined(__x86_64__)
  return (F64)_mm_sqrt_pd((__m128d)x);
#elif defined(__aarch64__)
  return (F64)vsqrtq_f64((float64x2_t)x);
#else
  for (int i = 0; i < kQuads; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// In each lane: a where the sign bit of `which` is set, else b.
inline F32 where_negative(I32 which, F32 a, F32 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F32)_mm512_mask_mov_ps((__m512)b, _mm512_movepi32_mask((__m512i)which), (__m512)a);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F32)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)which);
#else
  return which < 0 ? a : b;
#endif
}

inline F64 where_negative(I64 which, F64 a, F64 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F64)_mm512_mask_mov_pd((__m512d)b, _mm512_movepi64_mask((__m512i)which), (__m512d)a);
#elif defined(__AVX2__) && defined(__FMA__)
  return (F64)_mm256_blendv_pd((__m256d)b, (__m256d)a, (__m256d)which);
#else
  return which < 0 ? a : b;
#endif
}

inline F32 to_float(I32 x) { return __builtin_convertvector(x, F32); }

// The nearest float32 of an unsigned number. Both halves are exact, so only their sum rounds.
inline F32 to_float(U32 x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return (F32)_mm512_cvtepu32_ps((__m512i)x);
#else
  return fma(to_float((I32)(x >> 16)), splat(65536.0f), to_float((I32)(x & 0xFFFF)));
#endif
}

// The low halves of the 64-bit lanes of both vectors: those of `low` in the even 32-bit lanes, those of `high` in the
// odd.
inline U32 pack(U64 low, U64 high) {
#if defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)
  return (U32)_mm256_blend_epi32((__m256i)low, (__m256i)(high << 32), 0xAA);
#else
  return (U32)((low & 0xFFFFFFFF) | (high << 32));
#endif
}

// The 128-bit blocks of a and b, interleaved by 32-bit lanes: `lower` has the lower halves of the blocks, `upper` the
// upper halves.
struct Interleaved {
  F32 lower, upper;
};
inline Interleaved interleave(F32 a, F32 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return {(F32)_mm512_unpacklo_ps((__m512)a, (__m512)b), (F32)_mm512_unpackhi_ps((__m512)a, (__m512)b)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {(F32)_mm256_unpacklo_ps((__m256)a, (__m256)b), (F32)_mm256_unpackhi_ps((__m256)a, (__m256)b)};
#else
  return {__builtin_shufflevector(a, b, 0, 4, 1, 5), __builtin_shufflevector(a, b, 2, 6, 3, 7)};
#endif
}

// The number that stands in lane `lane` of a vector of 64-bit lanes, where interleaving by 128-bit blocks shall give
// consecutive numbers.
constexpr int interleaved_lane(int lane) { return lane % 2 * kQuads / 2 + lane / 2; }

// The 128-bit blocks of a and b, interleaved by 64-bit lanes, stored one after the other: the pairs (a, b) of the
// numbers in the order of interleaved_lane.
struct InterleavedPairs {
  F64 lower, upper;
};
inline InterleavedPairs interleave(F64 a, F64 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return {(F64)_mm512_unpacklo_pd((__m512d)a, (__m512d)b), (F64)_mm512_unpackhi_pd((__m512d)a, (__m512d)b)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {(F64)_mm256_unpacklo_pd((__m256d)a, (__m256d)b), (F64)_mm256_unpackhi_pd((__m256d)a, (__m256d)b)};
#else
  return {__builtin_shufflevector(a, b, 0, 2), __builtin_shufflevector(a, b, 1, 3)};
#endif
}

// a and b, alternating by 128-bit blocks: a0 b0 a1 b1 and so on.
inline void store_blocks(double* to, F64 a, F64 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  store(to, __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11));
  store(to + 8, __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15));
#elif defined(__AVX2__) && defined(__FMA__)
  store(to, __builtin_shufflevector(a, b, 0, 1, 4, 5));
  store(to + 4, __builtin_shufflevector(a, b, 2, 3, 6, 7));
#else
  store(to, a);
  store(to + 2, b);
#endif
}

// The 128-bit blocks of a and b, interleaved by 64-bit lanes.
struct InterleavedWords {
  U32 lower, upper;
};
inline InterleavedWords interleave_pairs(U32 a, U32 b) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
  return {(U32)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b), (U32)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b)};
#elif defined(__AVX2__) && defined(__FMA__)
  return {(U32)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b), (U32)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b)};
#else
  return {__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7)};
#endif
}

}  // namespace nmer_fast::NMER_FAST_ISA
