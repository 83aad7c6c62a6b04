// The kernels of every instruction set that this machine runs, on buffers of exactly their size (so that a sanitizer sees
// one element too many), against the float64 definition. `ctest`; `make sanitize` runs it under sanitizers.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "../gather.h"
#include "../kernels.h"
#include "../philox.h"

using namespace nmer_fast;

namespace nmer_fast {
namespace baseline {
int transform_failures();
}
#if defined(__x86_64__)
namespace avx2 {
int transform_failures();
}
namespace avx512 {
int transform_failures();
}
#endif
}  // namespace nmer_fast

namespace {

int failures = 0;

void check(bool holds, const char* what, const char* isa, std::int64_t count) {
  if (holds) return;
  std::printf("FAILED %s: %s, %lld elements\n", isa, what, static_cast<long long>(count));
  ++failures;
}

// Exactly n elements on the heap, no more.
template <class T>
std::unique_ptr<T[]> buffer(std::int64_t n, T value = {}) {
  auto out = std::make_unique<T[]>(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) out[i] = value;
  return out;
}

constexpr Noise noise_of(Kind kind) { return {0xFEDCBA9876543210u, 0xFFFFFFFFu, 255, 0xABCDEF012345u, kind, 644245095u}; }

// Random123's known answers.
void known_answers() {
  check(philox({0, 0, 0, 0}, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}, "philox of zeros", "all", 1);
  constexpr std::uint32_t ones = 0xFFFFFFFF;
  check(philox({ones, ones, ones, ones}, ~std::uint64_t{0}) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        "philox of ones", "all", 1);
  check(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822u) ==
            Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
        "philox of pi", "all", 1);
}

// Each kind in float32 against float64, from the start of a sample and from its far end; the same in bf16 and fp16 sizes.
void noise_and_mixing(const Kernels& k, std::int64_t count) {
  for (const Kind kind : {Kind::gaussian, Kind::impulse, Kind::uniform, Kind::laplace}) {
    const Noise noise = noise_of(kind);
    for (const std::int64_t first : {std::int64_t{0}, (std::int64_t{1} << 34) - 4 * ((count + 3) / 4)}) {
      auto exact = buffer<double>(count);
      auto eps = buffer<float>(count), x = buffer<float>(count, 2.0f), y = buffer<float>(count);
      double sums[3] = {};
      k.noise(Type::float64, noise, first, count, exact.get());
      k.add_noise(Type::float32, noise, first, count, x.get(), 0.25, y.get(), eps.get(), sums);
      double worst = 0, worst_y = 0;
      for (std::int64_t i = 0; i < count; ++i) {
        worst = std::fmax(worst, std::fabs(eps[i] - exact[i]));
        worst_y = std::fmax(worst_y, std::fabs(y[i] - (1 + std::sqrt(0.75) * exact[i])));
      }
      check(worst <= 2e-6, "eps", k.isa, count);
      check(worst_y <= 3e-6, "y", k.isa, count);
      check(std::fabs(sums[0] - 2.0 * count) < 1e-9 * (1 + count), "sum of x", k.isa, count);
    }
    for (const Type type : {Type::bfloat16, Type::float16}) {
      auto x = buffer<std::uint16_t>(count), y = buffer<std::uint16_t>(count), eps = buffer<std::uint16_t>(count);
      k.add_noise(type, noise, 0, count, x.get(), 0.25, y.get(), eps.get(), nullptr);
      k.mix_noise(type, count, x.get(), eps.get(), 0.25, y.get());
      k.scaled(type, count, x.get(), 0.5, y.get());
      k.noise(type, noise, 0, count, eps.get());
    }
  }
}

void vae(const Kernels& k, std::int64_t count) {
  const Noise noise = noise_of(Kind::gaussian);
  auto mu = buffer<float>(count, 0.5f), logvar = buffer<float>(count, -1.0f), z = buffer<float>(count);
  auto grad_mu = buffer<float>(count), grad_logvar = buffer<float>(count);
  auto eps = buffer<double>(count);
  k.noise(Type::float64, noise, 0, count, eps.get());
  double kl = 0;
  k.reparameterize_kl(Type::float32, noise, 0, count, mu.get(), logvar.get(), z.get(), &kl);
  k.reparameterize_kl_backward(Type::float32, noise, 0, count, mu.get(), 2.0, mu.get(), logvar.get(), grad_mu.get(),
                               grad_logvar.get());
  const double term = 0.5 * (0.25 + std::expm1(-1.0) + 1.0), sigma = std::exp(-0.5);
  check(std::fabs(kl - term * count) <= 1e-6 * (1 + count), "kl", k.isa, count);
  for (std::int64_t i = 0; i < count; ++i) {
    check(std::fabs(z[i] - (0.5 + sigma * eps[i])) <= 3e-6, "z", k.isa, i);
    check(std::fabs(grad_mu[i] - 1.5) <= 1e-6, "gradient of mu", k.isa, i);
    check(std::fabs(grad_logvar[i] - 0.5 * (0.5 * sigma * eps[i] + 2 * std::expm1(-1.0))) <= 3e-6,
          "gradient of logvar", k.isa, i);
  }
}

int transform_failures([[maybe_unused]] const char* isa) {
#if defined(__x86_64__)
  if (std::strcmp(isa, "avx2") == 0) return avx2::transform_failures();
  if (std::strcmp(isa, "avx512") == 0) return avx512::transform_failures();
#endif
  return baseline::transform_failures();
}

// Sequences of 0 to 4 steps and one of several tasks, out of exactly their memory into exactly the batch's; plain and
// standardised, padded and cut.
void gather(Index dim) {
  const auto serial = [](Index begin, Index end, Index, const auto& body) { body(begin, end); };
  const std::vector<Index> all = {0, 3, 1, 2 * kChunk / dim + 1, 4, 0};
  std::vector<Index> edges = {0};
  for (const Index n : all) edges.push_back(edges.back() + n);
  auto values = buffer<float>(edges.back() * dim), mean = buffer<float>(dim, 1.0f), std = buffer<float>(dim, 2.0f);
  for (Index i = 0; i < edges.back() * dim; ++i) values[i] = static_cast<float>(i % 1000);
  const Standard standard = {mean.get(), std.get(), 100.0f};
  const std::vector<Index> rows = {5, 4, 3, 0, 1};
  std::vector<Index> starts, lengths;
  for (const Index row : rows) starts.push_back(edges[row]), lengths.push_back(all[row]);
  for (const Index steps : {Index{1}, Index{3}, 2 * kChunk / dim + 9}) {
    const Index sizes[] = {static_cast<Index>(rows.size()), steps, dim};
    const Samples samples(Type::float32, 4, std::vector<Index>(sizes, sizes + 3));
    auto plain = buffer<float>(sizes[0] * samples.row, -1.0f), scaled = buffer<float>(sizes[0] * samples.row, -1.0f);
    gather_padded(serial, samples, values.get(), starts, lengths, nullptr, plain.get());
    gather_padded(serial, samples, values.get(), starts, lengths, &standard, scaled.get());
    bool holds = true;
    for (Index b = 0; b < sizes[0]; ++b) {
      for (Index i = 0; i < samples.row; ++i) {
        const bool valid = i < lengths[b] * dim;
        const float x = valid ? values[starts[b] * dim + i] : 0, y = valid ? std::fmin((x - 1) / 2, 100.0f) : 0;
        holds &= plain[b * samples.row + i] == x && scaled[b * samples.row + i] == y;
      }
    }
    check(holds, "gathered", "all", steps);
  }
}

}  // namespace

int main() {
  known_answers();
  for (const Index dim : {1, 5, 130}) gather(dim);
  for (const Kernels* k : all_kernels()) {
    check(transform_failures(k->isa) == 0, "values of chosen words", k->isa, 4);
    for (const std::int64_t count : {0, 1, 2, 3, 4, 5, 7, 8, 15, 31, 33, 63, 65, 127, 511, 512, 513, 1023, 2049}) {
      noise_and_mixing(*k, count);
      vae(*k, count);
    }
    std::printf("%s: done\n", k->isa);
  }
  check(!use_kernels("abacus"), "an unknown instruction set is refused", "all", 0);
  for (const Kernels* k : all_kernels()) check(use_kernels(k->isa) && &kernels() == k, "chosen", k->isa, 0);
  std::printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
