// Tests the transforms from words to values on words that noise meets once in a billion: the far tail, the centre, and
// the corners of the angle. The file is compiled once for each instruction set.
#include <cmath>
#include <cstdio>
#include <numbers>

#include "../distributions.h"

namespace nmer_fast::NMER_FAST_ISA {
namespace {

constexpr std::uint32_t kWords[] = {0,          1,          2,          3,          4,          7,          100,
                                    1001,       65535,      65536,      16777215,   16777216,   16777217,   33554433,
                                    0x1FFFFFFF, 0x20000000, 0x20000001, 0x3FFFFFFF, 0x40000000, 0x5FFFFFFF, 0x60000000,
                                    0x7FFFFFFF, 0x80000000, 0x80000001, 0x9FFFFFFF, 0xA0000000, 0xB504F333, 0xB504F334,
                                    0xC0000000, 0xDFFFFFFF, 0xE0000000, 0xFFFFFE00, 0xFFFFFF7F, 0xFFFFFF80, 0xFFFFFFFF};

double unit_of(std::uint32_t w, int bits) {
  const float scale = std::ldexp(1.0f, -bits);
  const float product = static_cast<float>(w) * scale;
  return product + scale / 2;
}

// Whether all lanes have the four expected values.
template <class Transform>
bool gives(const Transform& transform, const std::uint32_t (&w)[4], const double (&expected)[4]) {
  const U64 words[4] = {splat(std::uint64_t{w[0]}), splat(std::uint64_t{w[1]}), splat(std::uint64_t{w[2]}),
                        splat(std::uint64_t{w[3]})};
  alignas(64) float out[4 * kQuads];
  transform(words, out);
  for (int i = 0; i < 4 * kQuads; ++i) {
    if (!(std::fabs(out[i] - expected[i % 4]) <= 2e-6)) {
      std::printf("words %08x %08x %08x %08x, value %d: %.9g, expected %.9g\n", w[0], w[1], w[2], w[3], i % 4, out[i],
                  expected[i % 4]);
      return false;
    }
  }
  alignas(64) double wide[4 * kQuads];
  transform(words, wide);
  for (int i = 0; i < 4 * kQuads; ++i) {
    if (!(std::fabs(wide[i] - expected[i % 4]) <= 1e-12)) {
      std::printf("words %08x %08x %08x %08x, float64 value %d: %.17g, expected %.17g\n", w[0], w[1], w[2], w[3], i % 4,
                  wide[i], expected[i % 4]);
      return false;
    }
  }
  return true;
}

}  // namespace

int transform_failures() {
  int failures = 0;
  for (const std::uint32_t a : kWords) {
    for (const std::uint32_t b : kWords) {
      const std::uint32_t w[4] = {a, b, b, a};
      double normal[4], laplace[4], uniform[4];
      for (int j = 0; j < 4; ++j) {
        const double u = unit_of(w[j / 2 * 2], 32), r = std::sqrt(-2 * std::log(u));
        const double angle = static_cast<std::int32_t>(w[j / 2 * 2 + 1]) * (std::numbers::pi / 0x1p31);
        normal[j] = r * (j % 2 == 0 ? std::cos(angle) : std::sin(angle));
        laplace[j] = (w[j] & 1 ? 1 : -1) * -std::log(unit_of(w[j] >> 1, 31)) / std::numbers::sqrt2;
        uniform[j] = std::numbers::sqrt3 * (2 * unit_of(w[j], 32) - 1);
      }
      failures += !gives(Gaussian{}, w, normal) + !gives(ByWord{Laplace{}}, w, laplace);
      failures += !gives(ByWord{Uniform{}}, w, uniform);
    }
  }
  const std::uint32_t ends[4] = {0, 0, 0xFFFFFFFF, 123};  // the largest radius there is, and none
  failures += !gives(Gaussian{}, ends, {std::sqrt(66 * std::numbers::ln2), 0, 0, 0});
  return failures;
}

}  // namespace nmer_fast::NMER_FAST_ISA
