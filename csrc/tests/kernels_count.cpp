// Runs one kernel REPEATS times on 4096 elements, for callgrind to count (`make instructions`): kernels_count ISA WHAT
// TYPE REPEATS. Counts at two numbers of repeats give the instructions for each element, without those of the start-up.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../kernels.h"

using namespace nmer_fast;

int main(int argc, char** argv) {
  constexpr std::int64_t kCount = 4096;
  if (argc != 5 || !use_kernels(argv[1])) {
    std::fputs("kernels_count ISA WHAT TYPE REPEATS: expected an instruction set that this machine has\n", stderr);
    return EXIT_FAILURE;
  }
  const std::string what = argv[2], name = argv[3];
  const Type type = name == "float32" ? Type::float32 : name == "bfloat16" ? Type::bfloat16 : Type::float16;
  const Noise noise{1, 2, 3, 4, what == "impulse" ? Kind::impulse : Kind::gaussian, 644245095u};
  std::vector<float> x(kCount), a(kCount), b(kCount), y(kCount), z(kCount);  // zeros in every type
  double sums[3] = {}, kl = 0;
  const Kernels& k = kernels();
  for (int i = std::atoi(argv[4]); i > 0; --i) {
    if (what == "copy") k.scaled(type, kCount, x.data(), 1, y.data());
    else if (what == "reparameterize_kl")
      k.reparameterize_kl(type, noise, 0, kCount, a.data(), b.data(), y.data(), &kl);
    else if (what == "reparameterize_kl_backward")
      k.reparameterize_kl_backward(type, noise, 0, kCount, x.data(), 1, a.data(), b.data(), y.data(), z.data());
    else k.add_noise(type, noise, 0, kCount, x.data(), 0.3, y.data(), nullptr, what == "statistics" ? sums : nullptr);
  }
}
