// Philox4x32-10 on vectors of quads, for consecutive quads of one sample (docs/noise_contract.md).
//
// A word stands in the low half of a 64-bit lane, so that one multiplication gives both halves of the product. The high
// half of the lane is never read. Counter words 1 to 3 are the same for all quads of a sample, so half of the first two
// rounds is done once.
#pragma once

#include "philox.h"
#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr std::uint32_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57, kW0 = 0x9E3779B9, kW1 = 0xBB67AE85;

// The generator of one sample's words: everything that decides them but the quad.
class QuadStream {
 public:
  QuadStream(std::uint64_t seed, std::uint32_t draw, std::uint32_t stream, std::uint64_t sample) {
    const Words c = sample_counter(0, sample, stream, draw);
    auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    const std::uint64_t b = std::uint64_t{kM1} * c[2];  // round 1, the half that does not depend on the quad
    const auto c0 = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0;
    x2_ = splat(std::uint64_t{c[3] ^ k1});
    const std::uint64_t a = std::uint64_t{kM0} * c0;  // round 2, the other half
    x0_ = splat(std::uint64_t{static_cast<std::uint32_t>(b) ^ (k0 + kW0)});
    y2_ = splat(std::uint64_t{static_cast<std::uint32_t>(a >> 32) ^ (k1 + kW1)});
    c3_ = splat(a);
    for (std::uint32_t round = 2; round < 10; ++round) {
      keys0_[round - 2] = splat(std::uint64_t{k0 + round * kW0});
      keys1_[round - 2] = splat(std::uint64_t{k1 + round * kW1});
    }
  }

  // Words 0 to 3 of quads `first` to first + kQuads * Groups - 1. Lane i of a vector holds the quad (i % 2) * kQuads /
  // 2 + i / 2 of the vector, so that interleaving by 128-bit blocks gives consecutive quads.
  template <int Groups>
  void operator()(std::uint64_t first, U64 (&words)[Groups][4]) const {
    U64 c0[Groups], c1[Groups], c2[Groups], c3[Groups];
    for (int g = 0; g < Groups; ++g) {
      const U64 a = multiply_low(splat(first + g * kQuads) + lane_quads(), splat(std::uint64_t{kM0}));
      const U64 b = multiply_low((a >> 32) ^ x2_, splat(std::uint64_t{kM1}));
      c0[g] = (b >> 32) ^ x0_;
      c1[g] = b;
      c2[g] = a ^ y2_;
      c3[g] = c3_;
    }
#pragma GCC unroll 8
    for (int round = 0; round < 8; ++round) {
#pragma GCC unroll 4
      for (int g = 0; g < Groups; ++g) {
        const U64 a = multiply_low(c0[g], splat(std::uint64_t{kM0}));
        const U64 b = multiply_low(c2[g], splat(std::uint64_t{kM1}));
        c0[g] = (b >> 32) ^ c1[g] ^ keys0_[round];
        c1[g] = b;
        c2[g] = (a >> 32) ^ c3[g] ^ keys1_[round];
        c3[g] = a;
      }
    }
    for (int g = 0; g < Groups; ++g) {
      words[g][0] = c0[g];
      words[g][1] = c1[g];
      words[g][2] = c2[g];
      words[g][3] = c3[g];
    }
  }

 private:
  static U64 lane_quads() {
    U64 quads{};
    for (int i = 0; i < kQuads; ++i) quads[i] = (i % 2) * kQuads / 2 + i / 2;
    return quads;
  }

  U64 x0_, x2_, y2_, c3_, keys0_[8], keys1_[8];
};

}  // namespace nmer_fast::NMER_FAST_ISA
