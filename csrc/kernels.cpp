// The table of one instruction set. This file is compiled once for each set, with the set's flags and with its name in
// NMER_FAST_ISA.
#include "kernels.h"

#define NMER_FAST_TEXT_OF(name) #name
#define NMER_FAST_TEXT(name) NMER_FAST_TEXT_OF(name)

namespace nmer_fast::NMER_FAST_ISA {

#define NMER_FAST_VALUE(result, name, arguments) name,
extern const Kernels table;
const Kernels table{NMER_FAST_TEXT(NMER_FAST_ISA), NMER_FAST_KERNELS(NMER_FAST_VALUE)};

}  // namespace nmer_fast::NMER_FAST_ISA
