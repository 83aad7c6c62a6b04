// Thin binding of the CPU kernels to torch.ops.nmer_fast, through libtorch's stable ABI. The schemas are
// defined in Python (nmer_fast/ops), so that the reference serves where this library is missing.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "philox.h"

namespace {

using torch::stable::Tensor;

constexpr std::int64_t kGrain = 4096;  // counters per task: about 40 us of work

Tensor philox(const Tensor& seed, const Tensor& counter) {
  const Tensor in = torch::stable::contiguous(counter);
  Tensor out = torch::stable::empty_like(in);
  const auto key = static_cast<std::uint64_t>(*seed.const_data_ptr<std::int64_t>());
  const std::int64_t* src = in.const_data_ptr<std::int64_t>();
  std::int64_t* dst = out.mutable_data_ptr<std::int64_t>();
  torch::stable::parallel_for(0, in.numel() / 4, kGrain, [=](std::int64_t begin, std::int64_t end) {
    nmer_fast::philox(key, src + 4 * begin, dst + 4 * begin, end - begin);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(nmer_fast, CPU, m) { m.impl("philox", TORCH_BOX(&philox)); }
