// Finds the tables that this machine can run, and holds the one in use.
#include <cstring>

#include "kernels.h"

namespace nmer_fast {

namespace baseline {
extern const Kernels table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

const std::vector<const Kernels*>& all_kernels() {
  static const std::vector<const Kernels*> tables = [] {
    std::vector<const Kernels*> found{&baseline::table};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
      found.push_back(&avx2::table);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      found.push_back(&avx512::table);
    }
#endif
    return found;
  }();
  return tables;
}

namespace {
const Kernels*& chosen() {
  static const Kernels* table = all_kernels().back();
  return table;
}
}  // namespace

const Kernels& kernels() { return *chosen(); }

bool use_kernels(const char* isa) {
  for (const Kernels* table : all_kernels()) {
    if (std::strcmp(table->isa, isa) == 0) {
      chosen() = table;
      return true;
    }
  }
  return false;
}

}  // namespace nmer_fast
