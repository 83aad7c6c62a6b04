// Runs one kernel REPEATS times on 4096 elements, for callgrind to count (bench/instructions.py): kernels_count ISA
// WHAT TYPE SIZE REPEATS. SIZE is the elements of a sample; 0 is one sample of all elements. Counts at two numbers of
// repeats give the instructions for each element, without those of the start-up.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../kernels.h"

using namespace nmer_fast;

namespace {

constexpr Index kCount = 4096;

Type type_named(const std::string& name) {
  if (name == "float64") return Type::float64;
  return name == "float32" ? Type::float32 : name == "bfloat16" ? Type::bfloat16 : Type::float16;
}

void on_one_sample(const Kernels& k, const std::string& what, Type type, const Noise& noise, std::vector<double>* v) {
  double sums[3] = {}, kl = 0;
  const double *x = v[0].data(), *mu = v[1].data(), *logvar = v[2].data();
  double *y = v[3].data(), *z = v[4].data();
  if (what == "noise") k.noise(type, noise, 0, kCount, y);
  else if (what == "reparameterize_kl") k.reparameterize_kl(type, noise, 0, kCount, mu, logvar, y, &kl);
  else if (what == "reparameterize_kl_backward")
    k.reparameterize_kl_backward(type, noise, 0, kCount, x, 1, mu, logvar, y, z);
  else k.add_noise(type, noise, 0, kCount, x, 0.3, y, nullptr, what == "statistics" ? sums : nullptr);
}

void on_short_samples(const Kernels& k, const std::string& what, Type type, const Noise& noise, Index size,
                      std::vector<double>* v) {
  const Index samples = kCount / size;
  const double *x = v[0].data(), *mu = v[1].data(), *logvar = v[2].data();
  double *y = v[3].data(), *z = v[4].data(), *kl = v[5].data();
  const ShortRows rows{samples, size, 1, size, {0}, 0, {}};
  const PerSample<double> same{0.3}, own{0, v[6].data(), 1};
  double sums[3] = {};
  if (what == "noise") k.noise_rows(type, noise, rows, y);
  else if (what == "reparameterize_kl") k.reparameterize_kl_rows(type, noise, rows, mu, logvar, y, kl);
  else if (what == "reparameterize_kl_backward")
    k.reparameterize_kl_backward_rows(type, noise, rows, x, kl, 1, mu, logvar, y, z);
  else if (what == "own_alpha_bar") k.add_noise_rows(type, noise, rows, x, own, y, nullptr, nullptr);
  else k.add_noise_rows(type, noise, rows, x, same, y, nullptr, what == "statistics" ? sums : nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 || !use_kernels(argv[1])) {
    std::fputs("kernels_count ISA WHAT TYPE SIZE REPEATS: expected an instruction set that this machine has\n", stderr);
    return EXIT_FAILURE;
  }
  const std::string what = argv[2];
  const Type type = type_named(argv[3]);
  const Index size = std::atoi(argv[4]);
  const Noise noise{1, 2, 3, 4, what == "impulse" ? Kind::impulse : Kind::gaussian, 644245095u};
  std::vector<double> arrays[7];
  for (auto& array : arrays) array.resize(kCount);  // zeros in every type
  for (int i = std::atoi(argv[5]); i > 0; --i) {
    if (size == 0) on_one_sample(kernels(), what, type, noise, arrays);
    else on_short_samples(kernels(), what, type, noise, size, arrays);
  }
}
