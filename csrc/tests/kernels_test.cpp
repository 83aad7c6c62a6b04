// Compares the kernels of every instruction set that this machine runs with the float64 definition. Buffers have
// exactly the size that is needed, so that a sanitizer sees an access beyond them. `make sanitize` runs this test under
// sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../gather.h"
#include "../kernels.h"
#include "../philox.h"
#include "../sequences.h"

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

constexpr auto serial = [](Index begin, Index end, Index, const auto& body) { body(begin, end); };

constexpr Noise noise_of(Kind kind) {
  return {0xFEDCBA9876543210u, 0xFFFFFFFFu, 255, 0xABCDEF012345u, kind, 644245095u};
}

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

// Compares each kind in float32 with float64, at the start of a sample and at its far end, and runs the kernels of 16
// bits.
void noise_and_mixing(const Kernels& k, std::int64_t count) {
  for (const auto& [name, kind] : kKinds) {
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
    check(std::fabs(grad_logvar[i] - 0.5 * (0.5 * sigma * eps[i] + 2 * std::expm1(-1.0))) <= 3e-6, "gradient of logvar",
          k.isa, i);
  }
}

// Buffers that are aligned to their elements and to no vector, of which each has exactly the room that is needed.
struct Unaligned {
  static constexpr Index kOff = sizeof(double);
  std::unique_ptr<unsigned char[]> data;
  Unaligned(Index bytes, unsigned char value) : data(buffer<unsigned char>(bytes + kOff, value)) {}
  unsigned char* at(Index offset = 0) const { return data.get() + kOff + offset; }
};

// Compares short samples that are worked on together, bit for bit, with the same samples one by one: their own ids,
// alpha_bars, lengths and noisy flags, which stand apart from each other, in arrays that no vector is aligned to.
void short_rows(const Kernels& k, Type type, Index size, Index count, bool selected, bool given_ids) {
  const Index bytes = type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2, row = size * bytes;
  const Index steps = size % 3 == 0 ? 3 : size, step_size = size / steps, wide = bytes == 8 ? 8 : 4;
  std::vector<Index> ids(2 * count), lengths(3 * count);
  std::vector<double> alpha_bars(2 * count);
  const auto noisy = buffer<bool>(2 * count);
  for (Index r = 0; r < count; ++r) {
    ids[2 * r] = 0xFFFFFFF0 + 7 * r;
    lengths[3 * r] = (5 * r) % (steps + 3) - 1;  // beyond both limits too
    alpha_bars[2 * r] = static_cast<double>(r % 11) / 10;
    noisy[2 * r] = r % 3 != 0;
  }
  ShortRows rows{count, size, steps, step_size, {0}, 0, {}};
  rows.first_id = 0xFFFFFFFE;  // passes 2^32
  if (given_ids) rows.ids = {0, ids.data(), 2};
  if (selected) rows.selection = {{true, noisy.get(), 2}, {0, lengths.data(), 3}};
  const PerSample<double> alpha_bar{0, alpha_bars.data(), selected ? 2 : 0};
  Noise noise = noise_of(kKinds[size % kKinds.size()].second), normal = noise_of(Kind::gaussian);
  const Unaligned x(count * row, 0x3D), other(count * row, 0x3C), kl(count * wide, 0), gk(count * wide, 0x3C);
  const auto together = [&] { return Unaligned(count * row, 0xAA); };
  const Unaligned eps = together(), y = together(), y_eps = together(), mix = together(), back = together(),
                  back_eps = together(), z = together(), grad_mu = together(), grad_logvar = together();
  double sums[3] = {}, expected_sums[3] = {};
  k.noise_rows(type, noise, rows, eps.at());
  k.add_noise_rows(type, noise, rows, x.at(), alpha_bar, y.at(), y_eps.at(), sums);
  k.mix_noise_rows(type, rows, x.at(), other.at(), alpha_bar, mix.at());
  k.mix_noise_backward_rows(type, rows, x.at(), alpha_bar, false, back.at());
  k.mix_noise_backward_rows(type, rows, x.at(), alpha_bar, true, back_eps.at());
  k.reparameterize_kl_rows(type, normal, rows, x.at(), other.at(), z.at(), kl.at());
  k.reparameterize_kl_backward_rows(type, normal, rows, other.at(), gk.at(), 1, x.at(), other.at(), grad_mu.at(),
                                    grad_logvar.at());
  for (Index r = 0; r < count; ++r) {
    const Index valid = selected ? std::clamp<Index>(lengths[3 * r], 0, steps) * step_size : size;
    const bool has_noise = !selected || noisy[2 * r];
    const Index made = has_noise ? valid : 0, from = r * row;
    const double kept = selected ? alpha_bars[2 * r] : alpha_bars[0];
    noise.sample = normal.sample = given_ids ? static_cast<std::uint64_t>(ids[2 * r]) : rows.first_id + r;
    const auto same = [&](const Unaligned& got, const char* what, bool copied, const auto& write) {
      const Unaligned expected(row, 0);
      if (has_noise) write(expected.at());
      else if (copied) std::memcpy(expected.at(), x.at(from), valid * bytes);
      check(std::memcmp(got.at(from), expected.at(), row) == 0, what, k.isa, size);
    };
    const Unaligned unused(row, 0);
    same(eps, "short noise", false, [&](void* to) { k.noise(type, noise, 0, made, to); });
    same(y_eps, "short returned noise", false, [&](void* to) { k.noise(type, noise, 0, made, to); });
    same(y, "short y", true,
         [&](void* to) { k.add_noise(type, noise, 0, made, x.at(from), kept, to, nullptr, expected_sums); });
    same(mix, "short mix", true, [&](void* to) { k.mix_noise(type, made, x.at(from), other.at(from), kept, to); });
    same(back, "short gradient", true, [&](void* to) { k.scaled(type, made, x.at(from), kept, to); });
    same(back_eps, "short gradient of noise", false, [&](void* to) { k.scaled(type, made, x.at(from), 1 - kept, to); });
    // the VAE's ops know no selection
    const Unaligned one_z(row, 0), one_mu(row, 0), one_logvar(row, 0);
    double divergence = 0, grad = 0;
    if (wide == 8) std::memcpy(&grad, gk.at(r * wide), 8);
    float narrow_grad = 0;
    std::memcpy(&narrow_grad, gk.at(r * wide), 4);
    if (wide == 4) grad = narrow_grad;
    k.reparameterize_kl(type, normal, 0, size, x.at(from), other.at(from), one_z.at(), &divergence);
    k.reparameterize_kl_backward(type, normal, 0, size, other.at(from), grad, x.at(from), other.at(from), one_mu.at(),
                                 one_logvar.at());
    const auto narrow = static_cast<float>(divergence);
    const void* expected_kl = wide == 8 ? static_cast<const void*>(&divergence) : &narrow;
    check(std::memcmp(kl.at(r * wide), expected_kl, wide) == 0, "short kl", k.isa, size);
    check(std::memcmp(z.at(from), one_z.at(), row) == 0, "short z", k.isa, size);
    check(std::memcmp(grad_mu.at(from), one_mu.at(), row) == 0, "short gradient of mu", k.isa, size);
    check(std::memcmp(grad_logvar.at(from), one_logvar.at(), row) == 0, "short gradient of logvar", k.isa, size);
  }
  for (int i = 0; i < 3; ++i) {
    check(std::fabs(sums[i] - expected_sums[i]) <= 1e-12 * (1 + std::fabs(expected_sums[i])), "short sums", k.isa,
          size);
  }
}

// The exponentials of float64 against libm's, by z and kl at chosen logvars, infinite ones included.
void float64_exponentials(const Kernels& k) {
  constexpr double kLogvars[] = {-INFINITY, -1500, -1490, -1400, -37, -1,   -1e-9, 0,        1e-12, 0.3,
                                 1,         40,    90,    200,   700, 1410, 1430,  INFINITY, NAN};
  const Noise normal = noise_of(Kind::gaussian);
  double eps = 0;
  k.noise(Type::float64, normal, 0, 1, &eps);
  const auto close = [](double a, double b, double error) {
    return a == b || (std::isnan(a) && std::isnan(b)) || std::fabs(a - b) <= error;
  };
  for (const double logvar : kLogvars) {
    const double mu = 0, sigma = std::exp(logvar / 2), grown = std::expm1(logvar);
    double z = 0, kl = 0;
    k.reparameterize_kl(Type::float64, normal, 0, 1, &mu, &logvar, &z, &kl);
    check(close(z, sigma * eps, 1e-14 * std::fabs(sigma * eps) + 1e-320), "exp", k.isa, 1);
    check(close(kl, 0.5 * (grown - logvar), 1e-15 * (std::fabs(grown) + std::fabs(logvar))), "expm1", k.isa, 1);
  }
}

// Numbers from -1 to 1 that look random.
float chance(std::uint64_t at) {
  return static_cast<float>(philox({static_cast<std::uint32_t>(at), 7, 7, 7}, 5)[0]) / 0x1p31f - 1;
}

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

// Compares two encoders over one group of samples of every length with the recurrence in double, and the gradients of
// the gates with finite differences of the pooled sum.
void lstm(const Kernels& k, int width) {
  constexpr int kEncoders = 2, kSamples = 7;
  const std::int64_t lengths[kSamples] = {3, 0, 5, 1, 2, 5, 4};
  std::int64_t starts[kSamples], rows = 0;
  for (int i = 0; i < kSamples; ++i) starts[i] = rows, rows += lengths[i] + 1;
  const int order[kSamples] = {2, 5, 6, 0, 4, 3, 1};
  const std::int64_t row = kEncoders * width, pooled_size = kSamples * row;
  const auto weight = buffer<float>(kEncoders * 4 * width * width), given = buffer<float>(rows * 4 * row);
  for (std::int64_t i = 0; i < kEncoders * 4 * width * width; ++i) weight[i] = chance(i) / 4;
  for (std::int64_t i = 0; i < rows * 4 * row; ++i) given[i] = 2 * chance(1000000 + i);
  auto gates = buffer<float>(rows * 4 * row), hidden = buffer<float>(rows * row), cell = buffer<float>(rows * row);
  auto pooled = buffer<float>(pooled_size), grad = buffer<float>(pooled_size, 1);
  auto argmax = buffer<std::int64_t>(pooled_size);
  std::memcpy(gates.get(), given.get(), rows * 4 * row * sizeof(float));
  const Lstm forward{kEncoders,   width,        lengths,    starts,       weight.get(),
                     gates.get(), hidden.get(), cell.get(), pooled.get(), argmax.get()};
  for (int e = 0; e < kEncoders; ++e) k.lstm(forward, e, order, kSamples);
  auto d_gates = buffer<float>(rows * 4 * row, NAN);
  const LstmBackward backward{kEncoders,   width,      lengths,    starts,       weight.get(),
                              gates.get(), cell.get(), grad.get(), argmax.get(), d_gates.get()};
  for (int e = 0; e < kEncoders; ++e) k.lstm_backward(backward, e, order, kSamples);
  // The gradients of the states instead of those of the maxima give the same result.
  auto of_states = buffer<float>(rows * row), d_same = buffer<float>(rows * 4 * row, NAN);
  for (int b = 0; b < kSamples; ++b)
    for (std::int64_t u = 0; u < row && lengths[b] > 0; ++u) of_states[(starts[b] + argmax[b * row + u]) * row + u] = 1;
  const LstmBackward by_step{kEncoders,   width,      lengths,         starts,  weight.get(),
                             gates.get(), cell.get(), of_states.get(), nullptr, d_same.get()};
  for (int e = 0; e < kEncoders; ++e) k.lstm_backward(by_step, e, order, kSamples);
  for (std::int64_t i = 0; i < rows * 4 * row; ++i) check(d_same[i] == d_gates[i], "gradients of states", k.isa, i);
  for (int e = 0; e < kEncoders; ++e) {
    for (int b = 0; b < kSamples; ++b) {
      // The sum of the maxima over all units, where `by` is added to the gates' input number `moved`.
      const auto run = [&](std::int64_t moved, double by, bool compare) {
        std::vector<double> h(width), c(width), best(width, -INFINITY);
        for (int t = 0; t < lengths[b]; ++t) {
          std::vector<double> sums(4 * width);
          for (int i = 0; i < 4 * width; ++i) {
            const std::int64_t at = (starts[b] + t) * 4 * row + e * 4 * width + i;
            sums[i] = given[at] + (at == moved ? by : 0);
            for (int j = 0; j < width; ++j) sums[i] += weight[(e * 4 * width + i) * width + j] * h[j];
          }
          for (int u = 0; u < width; ++u) {
            c[u] = sigmoid_of(sums[width + u]) * c[u] + sigmoid_of(sums[u]) * std::tanh(sums[2 * width + u]);
            h[u] = sigmoid_of(sums[3 * width + u]) * std::tanh(c[u]);
            best[u] = std::max(best[u], h[u]);
          }
        }
        double total = 0;
        for (int u = 0; u < width && lengths[b] > 0; ++u) {
          total += best[u];
          if (compare) check(std::fabs(best[u] - pooled[b * row + e * width + u]) <= 2e-6, "lstm", k.isa, u);
        }
        return total;
      };
      run(-1, 0, true);
      if (lengths[b] == 0) check(pooled[b * row + e * width] == 0, "an absent sample", k.isa, b);
      for (int t = 0; t < lengths[b]; ++t) {
        for (int i = t; i < 4 * width; i += 13) {
          const std::int64_t at = (starts[b] + t) * 4 * row + e * 4 * width + i;
          const double slope = (run(at, 1e-6, false) - run(at, -1e-6, false)) / 2e-6;
          check(std::fabs(slope - d_gates[at]) <= 2e-5, "gradient of a gate", k.isa, i);
        }
      }
      check(d_gates[(starts[b] + lengths[b]) * 4 * row + e * 4 * width] == 0, "the unused row", k.isa, b);
    }
  }
}

// Compares every panel, over parts of the rows, with sums in double.
void product(const Kernels& k, int columns, int depth) {
  constexpr int kRows = 15;
  const auto a = buffer<float>(kRows * depth), weight = buffer<float>(columns * depth), bias = buffer<float>(columns);
  const auto panels = buffer<float>(columns * depth), out = buffer<float>(kRows * columns, NAN);
  for (int i = 0; i < kRows * depth; ++i) a[i] = chance(i);
  for (int i = 0; i < columns * depth; ++i) weight[i] = chance(5000000 + i);
  for (int i = 0; i < columns; ++i) bias[i] = chance(6000000 + i);
  k.pack_columns(weight.get(), columns, 1, 0, depth, panels.get());
  const Product s{depth, columns, a.get(), panels.get(), bias.get(), out.get()};
  for (int p = 0; p < columns / k.panel_of(columns); ++p) {
    k.product(s, 0, 7, p);
    k.product(s, 7, kRows, p);
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < columns; ++c) {
      double sum = bias[c];
      for (int d = 0; d < depth; ++d) sum += static_cast<double>(a[r * depth + d]) * weight[c * depth + d];
      check(std::fabs(out[r * columns + c] - sum) <= 1e-5, "product", k.isa, c);
    }
}

// Compares two encoders' kernels of 2 and 5 steps, over short and long samples, with sums in double.
void convolution(const Kernels& k, int dims, int filters) {
  constexpr int kSizes[] = {2, 5}, kEncoders = 2, kSamples = 4;
  const int columns = kEncoders * filters, panel = k.panel_of(columns);
  const std::int64_t lengths[kSamples] = {6, 0, 1, 5};
  std::int64_t starts[kSamples], rows = 0;
  for (int i = 0; i < kSamples; ++i) starts[i] = rows, rows += std::max<std::int64_t>(lengths[i], 5);
  const auto inputs = buffer<float>(rows * dims), biases = buffer<float>(2 * columns, 0.125f);
  for (int b = 0; b < kSamples; ++b)
    for (std::int64_t i = 0; i < lengths[b] * dims; ++i) inputs[starts[b] * dims + i] = chance(starts[b] * dims + i);
  const std::unique_ptr<float[]> weights[] = {buffer<float>(columns * 2 * dims), buffer<float>(columns * 5 * dims)};
  const auto panels = buffer<float>(7 * columns * dims);
  for (int kernel = 0, first = 0; kernel < 2; first += kSizes[kernel++]) {
    for (int i = 0; i < columns * kSizes[kernel] * dims; ++i) weights[kernel][i] = chance(7000000 + i) / 2;
    for (int tap = 0; tap < kSizes[kernel]; ++tap)
      k.pack_columns(weights[kernel].get(), columns, kSizes[kernel], tap, dims,
                     panels.get() + (first + tap) * columns * dims);
  }
  auto pooled = buffer<float>(kSamples * 2 * columns);
  auto argmax = buffer<std::int64_t>(kSamples * 2 * columns);
  const Convolution forward{2,      kEncoders,    filters,      dims,         kSizes,       lengths,
                            starts, inputs.get(), panels.get(), biases.get(), pooled.get(), argmax.get()};
  for (int p = 0; p < columns / panel; ++p) {
    k.conv_max_pool(forward, 0, 3, p);
    k.conv_max_pool(forward, 3, kSamples, p);
  }
  auto wins = buffer<std::int64_t>(2 * columns * kSamples);
  auto grads = buffer<float>(2 * columns * kSamples);
  for (int kernel = 0; kernel < 2; ++kernel) {
    for (int c = 0; c < columns; ++c) {
      for (int b = 0; b < kSamples; ++b) {
        double best = 0;
        const std::int64_t windows = std::max<std::int64_t>(lengths[b] - kSizes[kernel], 0) + 1;
        for (int t = 0; t < windows && lengths[b] > 0; ++t) {
          double sum = 0.125;
          for (int i = 0; i < kSizes[kernel] * dims; ++i)
            sum += static_cast<double>(inputs[(starts[b] + t) * dims + i]) *
                   weights[kernel][c * kSizes[kernel] * dims + i];
          best = std::max(best, sum);
        }
        const int at = ((b * kEncoders + c / filters) * 2 + kernel) * filters + c % filters;
        check(std::fabs(pooled[at] - best) <= 1e-5, "convolution", k.isa, at);
        wins[(kernel * columns + c) * kSamples + b] = starts[b] + argmax[at];
        grads[(kernel * columns + c) * kSamples + b] = pooled[at] > 0 ? chance(9000000 + at) : 0;
      }
    }
  }
  auto first_grad = buffer<float>(columns * 2 * dims), second_grad = buffer<float>(columns * 5 * dims);
  float* const to[] = {first_grad.get(), second_grad.get()};
  const ConvolutionBackward backward{2,      columns,      kSamples,   dims,        rows,
                                     kSizes, inputs.get(), wins.get(), grads.get(), to};
  for (int part = 0; part * k.conv_part() < dims; ++part) k.conv_max_pool_backward(backward, part);
  for (int kernel = 0; kernel < 2; ++kernel)
    for (int f = 0; f < columns; ++f)
      for (int tap = 0; tap < kSizes[kernel]; ++tap)
        for (int d = 0; d < dims; ++d) {
          double sum = 0;
          for (int b = 0; b < kSamples; ++b) {
            const int at = (kernel * columns + f) * kSamples + b;
            sum += static_cast<double>(grads[at]) * inputs[(wins[at] + tap) * dims + d];
          }
          check(std::fabs(to[kernel][(f * kSizes[kernel] + tap) * dims + d] - sum) <= 1e-5, "gradient of a tap", k.isa,
                d);
        }
}

int transform_failures([[maybe_unused]] const char* isa) {
#if defined(__x86_64__)
  if (std::strcmp(isa, "avx2") == 0) return avx2::transform_failures();
  if (std::strcmp(isa, "avx512") == 0) return avx512::transform_failures();
#endif
  return baseline::transform_failures();
}

// Gathers sequences of 0 to 4 steps and one that takes several tasks, plain and standardised, padded and cut.
void gather(Index dim) {
  const std::vector<Index> all = {0, 3, 1, 2 * kChunk / dim + 1, 4, 0};
  std::vector<Index> edges = {0};
  for (const Index n : all) edges.push_back(edges.back() + n);
  auto values = buffer<float>(edges.back() * dim), mean = buffer<float>(dim, 1.0f), std = buffer<float>(dim, 2.0f);
  for (Index i = 0; i < edges.back() * dim; ++i) values[i] = static_cast<float>(i % 1000);
  const Standard standard = {mean.get(), std.get(), 100.0f};
  const std::vector<Index> rows = {5, 4, 3, 0, 1};
  const Chosen chosen(rows.data(), static_cast<Index>(rows.size()), edges.data(), static_cast<Index>(all.size()),
                      edges.back());
  for (const Index steps : {Index{1}, Index{3}, 2 * kChunk / dim + 9}) {
    const Index sizes[] = {static_cast<Index>(rows.size()), steps, dim};
    const Samples samples(Type::float32, 4, std::vector<Index>(sizes, sizes + 3));
    auto plain = buffer<float>(sizes[0] * samples.row, -1.0f), scaled = buffer<float>(sizes[0] * samples.row, -1.0f);
    gather_padded(serial, samples, values.get(), chosen, nullptr, plain.get());
    gather_padded(serial, samples, values.get(), chosen, &standard, scaled.get());
    bool holds = true;
    for (Index b = 0; b < sizes[0]; ++b) {
      for (Index i = 0; i < samples.row; ++i) {
        const bool valid = i < chosen.lengths[b] * dim;
        const float x = valid ? values[chosen.starts[b] * dim + i] : 0, y = valid ? std::fmin((x - 1) / 2, 100.0f) : 0;
        holds &= plain[b * samples.row + i] == x && scaled[b * samples.row + i] == y;
      }
    }
    check(holds, "gathered", "all", steps);
  }
}

// The message of the error for this row and these edges; empty where there is none.
std::string refusal(Index row, const std::vector<Index>& edges) {
  try {
    Chosen(&row, 1, edges.data(), static_cast<Index>(edges.size()) - 1, 9);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void refused_rows() {
  const std::vector<Index> edges = {0, 3, 9};
  check(refusal(0, edges).empty() && refusal(1, edges).empty(), "rows in range", "all", 2);
  check(refusal(2, edges) == "rows: expected 0 to 1, got 2", "a row too high", "all", 2);
  check(refusal(-1, edges) == "rows: expected 0 to 1, got -1", "a row too low", "all", 2);
  for (const std::vector<Index>& bad : {std::vector<Index>{0, 10}, {-1, 3}, {5, 4}})
    check(refusal(0, bad) ==
              "offsets: expected to rise from 0 to 9, got " + std::to_string(bad[0]) + " and " + std::to_string(bad[1]),
          "edges out of range", "all", 1);
}

// Every kind is found by its name, and no other name is found.
void kinds() {
  for (const auto& [name, kind] : kKinds) check(kind_named(name) == kind, "a kind by its name", "all", 1);
  for (const char* name : {"cauchy", "", "Gaussian", "laplace "})
    check(!kind_named(name).has_value(), "an unknown kind", "all", 1);
  check(unknown_kind("cauchy") == "kind: expected one of gaussian, impulse, uniform, laplace, got cauchy",
        "the message of an unknown kind", "all", 1);
}

// Steps that are packed and unpacked again are the valid ones; all other elements are zero.
void packing(Index more, Index least) {
  constexpr Index kSteps = 7, kWidth = 3, kSamples = 19;
  std::vector<Index> lengths;
  for (Index b = 0; b < kSamples; ++b) lengths.push_back(b % (kSteps + 1));
  const auto x = buffer<float>(kSamples * kSteps * kWidth, 1.0f);
  const Sequences sequences(lengths.data(), kSamples, more, least);
  const auto rows = buffer<float>(sequences.rows() * kWidth, NAN),
             back = buffer<float>(kSamples * kSteps * kWidth, NAN);
  packed_steps(serial, sequences, kSteps, kWidth * sizeof(float), x.get(), rows.get());
  bool holds = sequences.count() == kSamples;
  for (Index b = 0; b < kSamples; ++b) {
    holds &= sequences.starts[b + 1] - sequences.starts[b] == std::max(lengths[b] + more, least);
    for (Index i = sequences.starts[b]; i < sequences.starts[b + 1]; ++i)
      for (Index w = 0; w < kWidth; ++w)
        holds &= rows[i * kWidth + w] == (i - sequences.starts[b] < lengths[b] ? 1.0f : 0.0f);
  }
  unpacked_steps(serial, sequences, kSteps, kWidth * sizeof(float), 0, rows.get(), back.get());
  for (Index b = 0; b < kSamples; ++b)
    for (Index i = 0; i < kSteps * kWidth; ++i)
      holds &= back[b * kSteps * kWidth + i] == (i < lengths[b] * kWidth ? 1.0f : 0.0f);
  check(holds, "packed and unpacked", "all", more);
}

// Every sample of every encoder is in one group, and a group's longest come first.
void grouping() {
  constexpr int kEncoders = 2, kSamples = 2 * kGroup + 5;
  std::vector<Index> lengths;
  for (Index b = 0; b < kSamples; ++b) lengths.push_back(b * 7 % 11);
  std::vector<int> seen(kEncoders * kSamples);
  bool holds = true;
  for_groups(serial, Sequences(lengths.data(), kSamples, 1, 0), kEncoders,
             [&](int encoder, const int* samples, int count) {
               holds &= count <= kGroup;
               for (int i = 0; i < count; ++i) {
                 ++seen[encoder * kSamples + samples[i]];
                 holds &= i == 0 || lengths[samples[i - 1]] >= lengths[samples[i]];
               }
             });
  for (const int times : seen) holds &= times == 1;
  check(holds, "groups", "all", kSamples);
}

// The results of the LSTM's and the convolution's ops on whole batches. The convolution's gradient is that of the first
// sample alone.
struct BatchResult {
  std::vector<float> pooled, hidden, d_gates, maxima, grad_taps;
};
BatchResult on_a_batch(const Kernels& k, const std::vector<Index>& lengths, const float* x) {
  constexpr int kDims = 5, kWidth = 16, kKernel = 3;
  const Index count = static_cast<Index>(lengths.size());
  std::vector<float> ih(4 * kWidth * kDims), hh(4 * kWidth * kWidth), bias(4 * kWidth), taps(kWidth * kKernel * kDims);
  Index at = 0;
  for (std::vector<float>* weights : {&ih, &hh, &bias, &taps})
    for (float& value : *weights) value = chance(++at) / 2;
  const Sequences sequences(lengths.data(), count, 1, 0), windows(lengths.data(), count, 0, kKernel);
  std::vector<float> inputs(sequences.rows() * kDims), panels(ih.size()), gates(sequences.rows() * 4 * kWidth), cell;
  Index steps = 0;
  for (const Index length : lengths) steps = std::max(steps, length);
  packed_steps(serial, sequences, steps, kDims * sizeof(float), x, inputs.data());
  BatchResult out;
  out.hidden.resize(sequences.rows() * kWidth), out.pooled.resize(count * kWidth), out.d_gates.resize(gates.size());
  cell.resize(out.hidden.size());
  std::vector<Index> argmax(out.pooled.size());
  const Product projection{kDims, 4 * kWidth, inputs.data(), panels.data(), bias.data(), gates.data()};
  lstm_recurrence(serial, k, sequences, projection, ih.data(), panels.data(),
                  Lstm{1, kWidth, lengths.data(), sequences.starts.data(), hh.data(), gates.data(), out.hidden.data(),
                       cell.data(), out.pooled.data(), argmax.data()});
  const std::vector<float> ones(out.pooled.size(), 1.0f);
  lstm_recurrence_backward(serial, k, sequences,
                           LstmBackward{1, kWidth, lengths.data(), sequences.starts.data(), hh.data(), gates.data(),
                                        cell.data(), ones.data(), argmax.data(), out.d_gates.data()});
  std::vector<float> rows(windows.rows() * kDims), tap_panels(taps.size());
  packed_steps(serial, windows, steps, kDims * sizeof(float), x, rows.data());
  out.maxima.resize(count * kWidth), out.grad_taps.resize(taps.size());
  windows_max(serial, k, windows, {taps.data()}, tap_panels.data(),
              Convolution{1, 1, kWidth, kDims, &kKernel, lengths.data(), windows.starts.data(), rows.data(),
                          tap_panels.data(), bias.data(), out.maxima.data(), argmax.data()});
  std::vector<float> grad(out.maxima.size());
  std::fill_n(grad.begin(), kWidth, 1.0f);
  float* const to = out.grad_taps.data();
  winning_windows(serial, k, windows, kWidth, grad.data(), argmax.data(),
                  ConvolutionBackward{1, kWidth, static_cast<int>(count), kDims, windows.rows(), &kKernel, rows.data(),
                                      nullptr, nullptr, &to});
  return out;
}

// The first sample's results in a batch of several groups are, to the bit, those of the sample alone.
void batches(const Kernels& k) {
  constexpr Index kSamples = 2 * kGroup + 6, kSteps = 9, kDims = 5;
  std::vector<Index> lengths = {kSteps};
  while (static_cast<Index>(lengths.size()) < kSamples) lengths.push_back(chance(lengths.size()) > 0 ? 4 : kSteps);
  std::vector<float> x(kSamples * kSteps * kDims);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = chance(i);
  const BatchResult whole = on_a_batch(k, lengths, x.data()), alone = on_a_batch(k, {kSteps}, x.data());
  const auto begins = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::equal(b.begin(), b.end(), a.begin());
  };
  check(begins(whole.pooled, alone.pooled) && begins(whole.hidden, alone.hidden), "the LSTM of a batch", k.isa,
        kSamples);
  check(begins(whole.d_gates, alone.d_gates), "the LSTM's gradient of a batch", k.isa, kSamples);
  check(begins(whole.maxima, alone.maxima), "the convolutions of a batch", k.isa, kSamples);
  check(begins(whole.grad_taps, alone.grad_taps), "the convolutions' gradient of a batch", k.isa, kSamples);
}

}  // namespace

int main() {
  known_answers();
  refused_rows();
  kinds();
  packing(1, 0);
  packing(0, 5);
  grouping();
  for (const Index dim : {1, 5, 130}) gather(dim);
  for (const Kernels* k : all_kernels()) {
    check(transform_failures(k->isa) == 0, "values of chosen words", k->isa, 4);
    for (const std::int64_t count : {0, 1, 2, 3, 4, 5, 7, 8, 15, 31, 33, 63, 65, 127, 511, 512, 513, 1023, 2049}) {
      noise_and_mixing(*k, count);
      vae(*k, count);
    }
    for (const Type type : {Type::float32, Type::bfloat16, Type::float16, Type::float64}) {
      for (const Index size :
           {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 33, 35, 63, 64, 65, 100, 127, 128, 255, 256}) {
        for (const Index count : {1, 2, 513}) {
          short_rows(*k, type, size, count, true, true);
          short_rows(*k, type, size, count, false, false);
        }
      }
    }
    float64_exponentials(*k);
    for (const int columns : {16, 128})
      for (const int depth : {1, 37, 130}) product(*k, columns, depth);
    for (const int width : {16, 64}) lstm(*k, width);
    batches(*k);
    for (const int filters : {8, 64})
      for (const int dims : {1, 31, 64, 70}) convolution(*k, dims, filters);
    std::printf("%s: done\n", k->isa);
  }
  check(!use_kernels("abacus"), "an unknown instruction set is refused", "all", 0);
  for (const Kernels* k : all_kernels()) check(use_kernels(k->isa) && &kernels() == k, "chosen", k->isa, 0);
  std::printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
