// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
#pragma once

#include <array>
#include <cstdint>

namespace nmer_fast {

using Words = std::array<std::uint32_t, 4>;

// Ten rounds on a 128-bit counter; the 64-bit seed is the key, low word first.
inline Words philox(Words c, std::uint64_t seed) {
  auto k0 = static_cast<std::uint32_t>(seed);
  auto k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// The counter of the noise contract: quad (element // 4), sample (48 bits), stream (8 bits), a tag, and draw. The tag
// keeps the words different from those of tl.randn and of CUDA's generator under the same seed.
inline Words sample_counter(std::uint32_t quad, std::uint64_t sample, std::uint32_t stream, std::uint32_t draw) {
  return {quad, static_cast<std::uint32_t>(sample),
          (static_cast<std::uint32_t>(sample >> 32) & 0xFFFF) | (stream & 0xFF) << 16 | 0x4Eu << 24, draw};
}

// The words of n counters. Each word stands in the low 32 bits of an int64, the integer that torch and NumPy share.
inline void philox(std::uint64_t seed, const std::int64_t* counter, std::int64_t* words, std::int64_t n) {
  for (std::int64_t i = 0; i < 4 * n; i += 4) {
    const Words w =
        philox(Words{static_cast<std::uint32_t>(counter[i]), static_cast<std::uint32_t>(counter[i + 1]),
                     static_cast<std::uint32_t>(counter[i + 2]), static_cast<std::uint32_t>(counter[i + 3])},
               seed);
    for (int j = 0; j < 4; ++j) words[i + j] = w[j];
  }
}

}  // namespace nmer_fast
