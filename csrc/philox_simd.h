// Philox4x32-10 on vectors of quads (docs/noise_contract.md): of consecutive quads of one sample, or of quads of
// several short samples.
//
// A word stands in the low half of a 64-bit lane, so that one multiplication gives both halves of the product. The high
// half of the lane is never read.
#pragma once

#include "philox.h"
#include "simd.h"

namespace nmer_fast::NMER_FAST_ISA {

inline constexpr std::uint32_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57, kW0 = 0x9E3779B9, kW1 = 0xBB67AE85;

// The keys of the last rounds, and those rounds on some vectors of counters.
template <int Rounds>
class LastRounds {
 public:
  explicit LastRounds(std::uint64_t seed) {
    const auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    for (std::uint32_t i = 0; i < Rounds; ++i) {
      keys0_[i] = splat(std::uint64_t{k0 + (10 - Rounds + i) * kW0});
      keys1_[i] = splat(std::uint64_t{k1 + (10 - Rounds + i) * kW1});
    }
  }
  template <int Groups>
  void operator()(U64 (&c0)[Groups], U64 (&c1)[Groups], U64 (&c2)[Groups], U64 (&c3)[Groups],
                  U64 (&words)[Groups][4]) const {
#pragma GCC unroll 10
    for (int round = 0; round < Rounds; ++round) {
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
  U64 keys0_[Rounds], keys1_[Rounds];
};

// The generator of one sample's words: everything that decides them but the quad. Counter words 1 to 3 are the same for
// all quads of a sample, so half of the first two rounds is done once.
class QuadStream {
 public:
  QuadStream(std::uint64_t seed, std::uint32_t draw, std::uint32_t stream, std::uint64_t sample) : rounds_(seed) {
    const Words c = sample_counter(0, sample, stream, draw);
    const auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    const std::uint64_t b = std::uint64_t{kM1} * c[2];  // round 1, the half that does not depend on the quad
    const auto c0 = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0;
    x2_ = splat(std::uint64_t{c[3] ^ k1});
    const std::uint64_t a = std::uint64_t{kM0} * c0;  // round 2, the other half
    x0_ = splat(std::uint64_t{static_cast<std::uint32_t>(b) ^ (k0 + kW0)});
    y2_ = splat(std::uint64_t{static_cast<std::uint32_t>(a >> 32) ^ (k1 + kW1)});
    c3_ = splat(a);
  }

  // Words 0 to 3 of quads `first` to first + kQuads * Groups - 1, in the lanes that interleaved_lane says.
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
    rounds_(c0, c1, c2, c3, words);
  }

 private:
  static U64 lane_quads() {
    U64 quads{};
    for (int i = 0; i < kQuads; ++i) quads[i] = interleaved_lane(i);
    return quads;
  }

  U64 x0_, x2_, y2_, c3_;
  LastRounds<8> rounds_;
};

// The generator of several samples' words: each lane has its own quad and sample.
class LaneStream {
 public:
  LaneStream(std::uint64_t seed, std::uint32_t draw, std::uint32_t stream)
      : tag_(splat(std::uint64_t{sample_counter(0, 0, stream, 0)[2]})), rounds_(seed) {
    const auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    key0_ = splat(std::uint64_t{k0});
    second_key0_ = splat(std::uint64_t{k0 + kW0});
    key1_ = splat(std::uint64_t{k1 + kW1});
    x2_ = splat(std::uint64_t{draw ^ k1});
    const std::uint64_t b = std::uint64_t{kM1} * (draw ^ k1);
    y0_ = splat(std::uint64_t{static_cast<std::uint32_t>(b >> 32) ^ (k0 + kW0)});
    y1_ = splat(b);
  }

  template <int Groups>
  void operator()(const U64 (&quads)[Groups], const U64 (&samples)[Groups], U64 (&words)[Groups][4]) const {
    U64 c0[Groups], c1[Groups], c2[Groups], c3[Groups];
    for (int g = 0; g < Groups; ++g) {
      const U64 a0 = multiply_low(quads[g], splat(std::uint64_t{kM0})), b0 = of_sample(samples[g]);  // round 1
      const U64 a = multiply_low((b0 >> 32) ^ samples[g] ^ key0_, splat(std::uint64_t{kM0}));        // round 2
      const U64 b = multiply_low((a0 >> 32) ^ x2_, splat(std::uint64_t{kM1}));
      c0[g] = (b >> 32) ^ b0 ^ second_key0_;
      c1[g] = b;
      c2[g] = (a >> 32) ^ a0 ^ key1_;
      c3[g] = a;
    }
    rounds_(c0, c1, c2, c3, words);
  }

  // The words of quad 0, for which half of the first two rounds is done once.
  template <int Groups>
  void first_quads(const U64 (&samples)[Groups], U64 (&words)[Groups][4]) const {
    U64 c0[Groups], c1[Groups], c2[Groups], c3[Groups];
    for (int g = 0; g < Groups; ++g) {
      const U64 b = of_sample(samples[g]);
      const U64 a = multiply_low((b >> 32) ^ samples[g] ^ key0_, splat(std::uint64_t{kM0}));
      c0[g] = b ^ y0_;
      c1[g] = y1_;
      c2[g] = (a >> 32) ^ key1_;
      c3[g] = a;
    }
    rounds_(c0, c1, c2, c3, words);
  }

 private:
  U64 of_sample(U64 sample) const { return multiply_low(((sample >> 32) & 0xFFFF) | tag_, splat(std::uint64_t{kM1})); }

  U64 tag_, key0_, second_key0_, key1_, x2_, y0_, y1_;
  LastRounds<8> rounds_;
};

}  // namespace nmer_fast::NMER_FAST_ISA
