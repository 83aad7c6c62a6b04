// Thin binding of the CPU kernels to torch.ops.nmer_fast, through libtorch's stable ABI. The schemas are
// defined in Python (nmer_fast/ops), so that the reference serves where this library is missing; arguments are checked there.
#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"
#include "philox.h"

namespace {

using nmer_fast::Kernels;
using nmer_fast::Kind;
using nmer_fast::kernels;
using nmer_fast::Noise;
using nmer_fast::Type;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Index = std::int64_t;

constexpr Index kChunk = 16384;      // elements of a task at most: a multiple of 4, and some tens of microseconds
constexpr Index kGrain = 16384;      // elements that are worth another thread
constexpr Index kHugePage = 2 << 20;

// ---------------------------------------------------------------- arguments

Type type_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Type::float32;
    case ScalarType::BFloat16: return Type::bfloat16;
    case ScalarType::Half: return Type::float16;
    case ScalarType::Double: return Type::float64;
    default: STD_TORCH_CHECK(false, "dtype: expected float32, bfloat16, float16 or float64");
  }
}

Kind kind_of(const std::string& name) {
  if (name == "gaussian") return Kind::gaussian;
  if (name == "impulse") return Kind::impulse;
  if (name == "uniform") return Kind::uniform;
  STD_TORCH_CHECK(name == "laplace", "kind: expected gaussian, impulse, uniform or laplace, got ", name);
  return Kind::laplace;
}

// Values by sample, and by modality where there are several; or one for all; or none.
template <class T>
class PerSample {
 public:
  PerSample(const Optional& t, T otherwise) : otherwise_(otherwise), held_(t) {
    if (!t.has_value()) return;
    data_ = t->const_data_ptr<T>();
    if (t->dim() > 0) row_ = t->stride(0);
    if (t->dim() > 1) column_ = t->stride(1);
  }
  // alpha_bars [M]: one for all samples of a modality.
  static PerSample by_modality(const Tensor& t, T otherwise) {
    PerSample out(t, otherwise);
    if (t.dim() == 1) std::swap(out.row_, out.column_);
    return out;
  }
  explicit operator bool() const { return data_ != nullptr; }
  T operator()(Index sample, Index modality = 0) const {
    return data_ == nullptr ? otherwise_ : data_[sample * row_ + modality * column_];
  }

 private:
  T otherwise_;
  Optional held_;
  const T* data_ = nullptr;
  Index row_ = 0, column_ = 0;
};

// What all samples' noise has in common, and each one's own.
class Source {
 public:
  Source(const Tensor& rng, const Optional& sample_ids, const Optional& p, const std::string& kind)
      : ids_(sample_ids, 0) {
    const auto* words = rng.const_data_ptr<Index>();
    const Index step = rng.stride(0);
    base_ = {static_cast<std::uint64_t>(words[0]), static_cast<std::uint32_t>(words[step]), 0, 0, kind_of(kind), 0};
    if (p.has_value()) base_.threshold = static_cast<std::uint32_t>(std::ceil(*p->const_data_ptr<double>() * 0x1p31));
  }
  Noise of(Index sample, Index stream) const {
    Noise noise = base_;
    noise.stream = static_cast<std::uint32_t>(stream);
    noise.sample = static_cast<std::uint64_t>(ids_ ? ids_(sample) : sample);
    return noise;
  }

 private:
  PerSample<Index> ids_;
  Noise base_;
};

// Which elements of a sample count and whether they are noisy.
struct Selection {
  PerSample<bool> noisy;
  PerSample<Index> lengths;
  Selection(const Optional& flags, const Optional& steps) : noisy(flags, true), lengths(steps, 0) {}
};

// ---------------------------------------------------------------- work

// One tensor [B, ...] that is worked on sample by sample.
struct Samples {
  Type type;
  Index batch, steps, step_size, row, bytes;
  explicit Samples(const Tensor& t) : type(type_of(t.scalar_type())) {
    const auto sizes = t.sizes();
    batch = sizes[0];
    row = std::accumulate(sizes.begin() + 1, sizes.end(), Index{1}, std::multiplies<>());
    steps = sizes.size() > 1 ? sizes[1] : 1;
    step_size = steps > 0 ? row / steps : 0;
    bytes = static_cast<Index>(t.element_size());
  }
  Index chunks() const { return (row + kChunk - 1) / kChunk; }
  Index valid(const Selection& s, Index sample, Index modality) const {
    return s.lengths ? std::clamp<Index>(s.lengths(sample, modality), 0, steps) * step_size : row;
  }
};

// A run of a sample's elements: those below `valid` count, the rest is zero.
struct Run {
  Index modality, sample, first, valid, count;
  std::size_t offset;  // bytes from the tensor's start
};

// Calls body(task, run) for every chunk of every sample of every tensor, in parallel; a task's number does not depend
// on the threads.
template <class Body>
void for_runs(const std::vector<Samples>& all, const Selection& selection, const Body& body) {
  std::vector<Index> ends;
  Index tasks = 0, elements = 0;
  for (const Samples& s : all) {
    ends.push_back(tasks += s.batch * s.chunks());
    elements += s.batch * s.row;
  }
  if (tasks == 0) return;
  const Index grain = std::max<Index>(1, kGrain * tasks / std::max<Index>(elements, 1));
  torch::stable::parallel_for(0, tasks, grain, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const Index m = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
      const Samples& s = all[m];
      const Index local = task - (m > 0 ? ends[m - 1] : 0);
      const Index sample = local / s.chunks(), first = local % s.chunks() * kChunk;
      const Index count = std::min(kChunk, s.row - first);
      const Index valid = std::clamp<Index>(s.valid(selection, sample, m) - first, 0, count);
      body(task, Run{m, sample, first, valid, count, static_cast<std::size_t>((sample * s.row + first) * s.bytes)});
    }
  });
}

const char* at(const Tensor& t, const Run& run) { return static_cast<const char*>(t.const_data_ptr()) + run.offset; }
char* at(Tensor& t, const Run& run) { return static_cast<char*>(t.mutable_data_ptr()) + run.offset; }

void zero_rest(Tensor& t, const Samples& s, const Run& run) {
  std::memset(at(t, run) + run.valid * s.bytes, 0, (run.count - run.valid) * s.bytes);
}

using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

// An output of this shape. A large one asks for huge pages, else touching it first costs more than the noise. Allocated
// through the C shim: the stable header's functions look their operator up by name in every call, 1 us each.
Tensor output(Sizes sizes, ScalarType dtype) {
  std::vector<Index> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<Index>(sizes[i], 1);
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<Index>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(dtype)), aoti_torch_device_type_cpu(), 0,
      &handle));
  Tensor out(handle);
  const auto start = reinterpret_cast<std::uintptr_t>(out.mutable_data_ptr());
  const std::uintptr_t end = start + out.numel() * out.element_size();
  const std::uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (end >= aligned + kHugePage) madvise(reinterpret_cast<void*>(aligned), end - aligned, MADV_HUGEPAGE);
  return out;
}

Tensor output(const Tensor& like) { return output(like.sizes(), like.scalar_type()); }

Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// ---------------------------------------------------------------- ops

Tensor philox(const Tensor& seed, const Tensor& counter) {
  constexpr Index grain = 4096;  // counters: about 40 us of work
  const Tensor in = packed(counter);
  Tensor out = output(in);
  const auto key = static_cast<std::uint64_t>(*seed.const_data_ptr<Index>());
  const Index* src = in.const_data_ptr<Index>();
  Index* dst = out.mutable_data_ptr<Index>();
  torch::stable::parallel_for(0, in.numel() / 4, grain, [=](Index begin, Index end) {
    nmer_fast::philox(key, src + 4 * begin, dst + 4 * begin, end - begin);
  });
  return out;
}

Tensor noise(const std::vector<Index>& size, const Tensor& rng, const Optional& sample_ids, const Optional& noisy,
             const Optional& lengths, const Optional& p, Index stream, const std::string& kind, ScalarType dtype) {
  Tensor eps = output(Sizes(size.data(), size.size()), dtype);
  const Samples s(eps);
  const Source source(rng, sample_ids, p, kind);
  const Selection selection(noisy, lengths);
  const Kernels& k = kernels();
  for_runs({s}, selection, [&](Index, Run run) {
    if (!selection.noisy(run.sample)) run.valid = 0;
    if (run.valid > 0) k.noise(s.type, source.of(run.sample, stream), run.first, run.valid, at(eps, run));
    zero_rest(eps, s, run);
  });
  return eps;
}

std::tuple<Tensor, Tensor> add_noise(const Tensor& input, const Tensor& alpha_bar, const Tensor& rng,
                                     const Optional& sample_ids, const Optional& noisy, const Optional& lengths,
                                     const Optional& p, Index stream, const std::string& kind, bool return_noise) {
  const Tensor x = packed(input);
  Tensor y = output(x), eps = return_noise ? output(x) : output({0}, x.scalar_type());
  const Samples s(x);
  const Source source(rng, sample_ids, p, kind);
  const Selection selection(noisy, lengths);
  const PerSample<double> alpha_bars(alpha_bar, 0);
  const Kernels& k = kernels();
  for_runs({s}, selection, [&](Index, Run run) {
    char* eps_at = return_noise ? at(eps, run) : nullptr;
    if (run.valid > 0 && selection.noisy(run.sample)) {
      k.add_noise(s.type, source.of(run.sample, stream), run.first, run.valid, at(x, run), alpha_bars(run.sample),
                  at(y, run), eps_at, nullptr);
    } else {
      std::memcpy(at(y, run), at(x, run), run.valid * s.bytes);
      if (return_noise) std::memset(eps_at, 0, run.valid * s.bytes);
    }
    zero_rest(y, s, run);
    if (return_noise) zero_rest(eps, s, run);
  });
  return {y, eps};
}

std::tuple<std::vector<Tensor>, Tensor> add_noise_multimodal(
    const std::vector<Tensor>& inputs, const Tensor& alpha_bars, const Tensor& rng, const Optional& sample_ids,
    const Optional& noisy, const Optional& lengths, const Optional& p, const std::vector<Index>& streams,
    const std::string& kind, bool return_stats) {
  struct Partial {
    double count = 0, sums[3] = {};
  };
  std::vector<Tensor> xs, ys;
  std::vector<Samples> all;
  Index tasks = 0;
  for (const Tensor& input : inputs) {
    xs.push_back(packed(input));
    ys.push_back(output(xs.back()));
    all.emplace_back(xs.back());
    tasks += all.back().batch * all.back().chunks();
  }
  const Source source(rng, sample_ids, p, kind);
  const Selection selection(noisy, lengths);
  const auto keep = PerSample<double>::by_modality(alpha_bars, 0);
  std::vector<Partial> partials(return_stats ? tasks : 0);
  const Kernels& k = kernels();
  for_runs(all, selection, [&](Index task, Run run) {
    const Index m = run.modality;
    if (run.valid > 0 && selection.noisy(run.sample, m)) {
      Partial* partial = return_stats ? &partials[task] : nullptr;
      if (return_stats) partial->count = static_cast<double>(run.valid);
      k.add_noise(all[m].type, source.of(run.sample, streams[m]), run.first, run.valid, at(xs[m], run),
                  keep(run.sample, m), at(ys[m], run), nullptr, return_stats ? partial->sums : nullptr);
    } else {
      std::memcpy(at(ys[m], run), at(xs[m], run), run.valid * all[m].bytes);
    }
    zero_rest(ys[m], all[m], run);
  });
  const Index rows = return_stats ? static_cast<Index>(xs.size()) : 0;
  Tensor stats = output({rows, 4}, ScalarType::Double);
  auto* row = stats.mutable_data_ptr<double>();
  std::fill_n(row, 4 * rows, 0.0);
  Index task = 0;
  for (Index m = 0; m < rows; ++m, row += 4) {  // in the tasks' order, so to the same bits for any number of threads
    for (const Index end = task + all[m].batch * all[m].chunks(); task < end; ++task) {
      row[0] += partials[task].count;
      for (int j = 0; j < 3; ++j) row[1 + j] += partials[task].sums[j];
    }
  }
  return {ys, stats};
}

Tensor mix_noise(const Tensor& input, const Tensor& noise_input, const Tensor& alpha_bar, const Optional& noisy,
                 const Optional& lengths) {
  const Tensor x = packed(input), eps = packed(noise_input);
  Tensor y = output(x);
  const Samples s(x);
  const Selection selection(noisy, lengths);
  const PerSample<double> alpha_bars(alpha_bar, 0);
  const Kernels& k = kernels();
  for_runs({s}, selection, [&](Index, Run run) {
    if (selection.noisy(run.sample)) {
      k.mix_noise(s.type, run.valid, at(x, run), at(eps, run), alpha_bars(run.sample), at(y, run));
    } else {
      std::memcpy(at(y, run), at(x, run), run.valid * s.bytes);
    }
    zero_rest(y, s, run);
  });
  return y;
}

Tensor mix_noise_backward(const Tensor& input, const Tensor& alpha_bar, const Optional& noisy, const Optional& lengths,
                          bool wrt_noise) {
  const Tensor grad = packed(input);
  Tensor out = output(grad);
  const Samples s(grad);
  const Selection selection(noisy, lengths);
  const PerSample<double> alpha_bars(alpha_bar, 0);
  const Kernels& k = kernels();
  for_runs({s}, selection, [&](Index, Run run) {
    const double kept = alpha_bars(run.sample);
    if (selection.noisy(run.sample)) {
      k.scaled(s.type, run.valid, at(grad, run), std::sqrt(wrt_noise ? 1 - kept : kept), at(out, run));
    } else if (wrt_noise) {
      run.valid = 0;
    } else {
      std::memcpy(at(out, run), at(grad, run), run.valid * s.bytes);
    }
    zero_rest(out, s, run);
  });
  return out;
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu_input, const Tensor& logvar_input, const Tensor& rng,
                                             const Optional& sample_ids, Index stream) {
  const Tensor mu = packed(mu_input), logvar = packed(logvar_input);
  const Samples s(mu);
  const bool wide = s.type == Type::float64;
  Tensor z = output(mu), kl = output({s.batch}, wide ? ScalarType::Double : ScalarType::Float);
  const Source source(rng, sample_ids, std::nullopt, "gaussian");
  std::vector<double> partials(s.batch * s.chunks());
  const Kernels& k = kernels();
  for_runs({s}, Selection({}, {}), [&](Index task, const Run& run) {
    k.reparameterize_kl(s.type, source.of(run.sample, stream), run.first, run.count, at(mu, run), at(logvar, run),
                        at(z, run), &partials[task]);
  });
  for (Index b = 0; b < s.batch; ++b) {
    const auto begin = partials.begin() + b * s.chunks();
    const double sum = std::accumulate(begin, begin + s.chunks(), 0.0);
    if (wide) kl.mutable_data_ptr<double>()[b] = sum;
    else kl.mutable_data_ptr<float>()[b] = static_cast<float>(sum);
  }
  return {z, kl};
}

std::tuple<Tensor, Tensor> reparameterize_kl_backward(const Tensor& grad_z_input, const Tensor& grad_kl,
                                                      const Tensor& mu_input, const Tensor& logvar_input,
                                                      const Tensor& rng, const Optional& sample_ids, Index stream) {
  const Tensor grad_z = packed(grad_z_input), mu = packed(mu_input),
               logvar = packed(logvar_input);
  const Samples s(mu);
  Tensor grad_mu = output(mu), grad_logvar = output(mu);
  const Source source(rng, sample_ids, std::nullopt, "gaussian");
  const bool wide = s.type == Type::float64;
  const PerSample<double> wide_kl(wide ? Optional(grad_kl) : std::nullopt, 0);
  const PerSample<float> narrow_kl(wide ? std::nullopt : Optional(grad_kl), 0);
  const Kernels& k = kernels();
  for_runs({s}, Selection({}, {}), [&](Index, const Run& run) {
    const double gk = wide ? wide_kl(run.sample) : narrow_kl(run.sample);
    k.reparameterize_kl_backward(s.type, source.of(run.sample, stream), run.first, run.count, at(grad_z, run), gk,
                                 at(mu, run), at(logvar, run), at(grad_mu, run), at(grad_logvar, run));
  });
  return {grad_mu, grad_logvar};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(nmer_fast, CPU, m) {
  m.impl("philox", TORCH_BOX(&philox));
  m.impl("noise", TORCH_BOX(&noise));
  m.impl("add_noise", TORCH_BOX(&add_noise));
  m.impl("add_noise_multimodal", TORCH_BOX(&add_noise_multimodal));
  m.impl("mix_noise", TORCH_BOX(&mix_noise));
  m.impl("mix_noise_backward", TORCH_BOX(&mix_noise_backward));
  m.impl("reparameterize_kl", TORCH_BOX(&reparameterize_kl));
  m.impl("reparameterize_kl_backward", TORCH_BOX(&reparameterize_kl_backward));
}

// For tests and `python -m nmer_fast.ops`, through ctypes: torch needs neither.
extern "C" {
int nmer_fast_isa_count() { return static_cast<int>(nmer_fast::all_kernels().size()); }
const char* nmer_fast_isa_name(int i) { return nmer_fast::all_kernels()[i]->isa; }
const char* nmer_fast_isa() { return kernels().isa; }
int nmer_fast_use_isa(const char* name) { return nmer_fast::use_kernels(name); }
}
