// Thin binding of the CPU kernels to torch.ops.nmer_fast, through libtorch's stable ABI. The schemas are defined in Python
// (nmer_fast/ops), so that the reference serves where this library is missing; arguments are checked there.
#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>

#include "batch.h"
#include "gather.h"
#include "philox.h"

namespace {

using nmer_fast::Index;
using nmer_fast::Kind;
using nmer_fast::PerSample;
using nmer_fast::Samples;
using nmer_fast::Selection;
using nmer_fast::Source;
using nmer_fast::Type;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

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

template <class T>
PerSample<T> per_sample(const Optional& t, T otherwise) {
  if (!t.has_value()) return {otherwise};
  return {otherwise, t->const_data_ptr<T>(), t->dim() > 0 ? t->stride(0) : 0, t->dim() > 1 ? t->stride(1) : 0};
}

Source source_of(const Tensor& rng, const Optional& sample_ids, const Optional& p, Kind kind) {
  const auto* words = rng.const_data_ptr<Index>();
  const auto draw = static_cast<std::uint32_t>(words[rng.stride(0)]);
  const double share = p.has_value() ? *p->const_data_ptr<double>() : 0;
  return {static_cast<std::uint64_t>(words[0]), draw, kind, share, per_sample<Index>(sample_ids, 0)};
}

Selection selection_of(const Optional& noisy, const Optional& lengths) {
  return {per_sample(noisy, true), per_sample<Index>(lengths, 0)};
}

Samples samples_of(const Tensor& t) {
  return {type_of(t.scalar_type()), static_cast<Index>(t.element_size()), t.sizes()};
}

Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // torch 2.11's headers call it so
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

// ---------------------------------------------------------------- results and threads

// An output of this shape. A large one asks for huge pages, else touching it first costs more than the noise. Allocated
// through the C shim: the stable header's functions look their operator up by name in every call, 1 us each.
Tensor output(Sizes sizes, ScalarType dtype) {
  constexpr std::uintptr_t kHugePage = 2 << 20;
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

constexpr auto parallel = [](Index begin, Index end, Index grain, const auto& body) {
  torch::stable::parallel_for(begin, end, grain, body);
};

// ---------------------------------------------------------------- ops

Tensor philox(const Tensor& seed, const Tensor& counter) {
  constexpr Index grain = 4096;  // counters: about 40 us of work
  const Tensor in = packed(counter);
  Tensor out = output(in);
  const auto key = static_cast<std::uint64_t>(*seed.const_data_ptr<Index>());
  const Index* src = in.const_data_ptr<Index>();
  Index* dst = out.mutable_data_ptr<Index>();
  parallel(0, in.numel() / 4, grain, [=](Index begin, Index end) {
    nmer_fast::philox(key, src + 4 * begin, dst + 4 * begin, end - begin);
  });
  return out;
}

Tensor noise(const std::vector<Index>& size, const Tensor& rng, const Optional& sample_ids, const Optional& noisy,
             const Optional& lengths, const Optional& p, Index stream, const std::string& kind, ScalarType dtype) {
  Tensor eps = output(Sizes(size.data(), size.size()), dtype);
  nmer_fast::noise(parallel, samples_of(eps), source_of(rng, sample_ids, p, kind_of(kind)), stream,
                   selection_of(noisy, lengths), eps.mutable_data_ptr());
  return eps;
}

std::tuple<Tensor, Tensor> add_noise(const Tensor& input, const Tensor& alpha_bar, const Tensor& rng,
                                     const Optional& sample_ids, const Optional& noisy, const Optional& lengths,
                                     const Optional& p, Index stream, const std::string& kind, bool return_noise) {
  const Tensor x = packed(input);
  Tensor y = output(x), eps = return_noise ? output(x) : output({0}, x.scalar_type());
  nmer_fast::add_noise(parallel, samples_of(x), source_of(rng, sample_ids, p, kind_of(kind)), stream,
                       selection_of(noisy, lengths), per_sample<double>(alpha_bar, 0), x.const_data_ptr(),
                       y.mutable_data_ptr(), return_noise ? eps.mutable_data_ptr() : nullptr);
  return {y, eps};
}

std::tuple<std::vector<Tensor>, Tensor> add_noise_multimodal(
    const std::vector<Tensor>& inputs, const Tensor& alpha_bars, const Tensor& rng, const Optional& sample_ids,
    const Optional& noisy, const Optional& lengths, const Optional& p, const std::vector<Index>& streams,
    const std::string& kind, bool return_stats) {
  std::vector<Tensor> xs, ys;
  std::vector<Samples> all;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const Tensor& input : inputs) {
    xs.push_back(packed(input));
    ys.push_back(output(xs.back()));
    all.push_back(samples_of(xs.back()));
    from.push_back(xs.back().const_data_ptr());
    to.push_back(ys.back().mutable_data_ptr());
  }
  auto keep = per_sample<double>(alpha_bars, 0);
  if (alpha_bars.dim() == 1) std::swap(keep.row, keep.column);  // [M]: one for all samples of a modality
  Tensor stats = output({return_stats ? static_cast<Index>(xs.size()) : 0, 4}, ScalarType::Double);
  nmer_fast::add_noise_multimodal(parallel, all, source_of(rng, sample_ids, p, kind_of(kind)), streams,
                                  selection_of(noisy, lengths), keep, from, to,
                                  return_stats ? stats.mutable_data_ptr<double>() : nullptr);
  return {ys, stats};
}

Tensor mix_noise(const Tensor& input, const Tensor& noise_input, const Tensor& alpha_bar, const Optional& noisy,
                 const Optional& lengths) {
  const Tensor x = packed(input), eps = packed(noise_input);
  Tensor y = output(x);
  nmer_fast::mix_noise(parallel, samples_of(x), selection_of(noisy, lengths), per_sample<double>(alpha_bar, 0),
                       x.const_data_ptr(), eps.const_data_ptr(), y.mutable_data_ptr());
  return y;
}

Tensor mix_noise_backward(const Tensor& input, const Tensor& alpha_bar, const Optional& noisy, const Optional& lengths,
                          bool wrt_noise) {
  const Tensor grad = packed(input);
  Tensor out = output(grad);
  nmer_fast::mix_noise_backward(parallel, samples_of(grad), selection_of(noisy, lengths),
                                per_sample<double>(alpha_bar, 0), wrt_noise, grad.const_data_ptr(),
                                out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu_input, const Tensor& logvar_input, const Tensor& rng,
                                             const Optional& sample_ids, Index stream) {
  const Tensor mu = packed(mu_input), logvar = packed(logvar_input);
  const Samples s = samples_of(mu);
  Tensor z = output(mu), kl = output({s.batch}, s.type == Type::float64 ? ScalarType::Double : ScalarType::Float);
  nmer_fast::reparameterize_kl(parallel, s, source_of(rng, sample_ids, std::nullopt, Kind::gaussian), stream,
                               mu.const_data_ptr(), logvar.const_data_ptr(), z.mutable_data_ptr(),
                               kl.mutable_data_ptr());
  return {z, kl};
}

std::tuple<Tensor, Tensor> reparameterize_kl_backward(const Tensor& grad_z_input, const Tensor& grad_kl,
                                                      const Tensor& mu_input, const Tensor& logvar_input,
                                                      const Tensor& rng, const Optional& sample_ids, Index stream) {
  const Tensor grad_z = packed(grad_z_input), mu = packed(mu_input), logvar = packed(logvar_input);
  const Samples s = samples_of(mu);
  Tensor grad_mu = output(mu), grad_logvar = output(mu);
  const auto run = [&](const auto& gk) {
    nmer_fast::reparameterize_kl_backward(parallel, s, source_of(rng, sample_ids, std::nullopt, Kind::gaussian), stream,
                                          grad_z.const_data_ptr(), gk, mu.const_data_ptr(), logvar.const_data_ptr(),
                                          grad_mu.mutable_data_ptr(), grad_logvar.mutable_data_ptr());
  };
  if (s.type == Type::float64) run(per_sample<double>(grad_kl, 0));
  else run(per_sample<float>(grad_kl, 0));
  return {grad_mu, grad_logvar};
}

// Rows of each sample, `more` than it has steps and at least `least`, end to end; samples in the order of their lengths,
// longest first.
struct Sequences {
  std::vector<Index> starts;
  std::vector<int> order;
  Index rows = 0;

  explicit Sequences(const Tensor& lengths, Index more = 1, Index least = 0)
      : starts(lengths.numel()), order(lengths.numel()) {
    const Index* of = lengths.const_data_ptr<Index>();
    for (std::size_t i = 0; i < starts.size(); ++i) {
      starts[i] = rows;
      rows += std::max(of[i] + more, least);
      order[i] = static_cast<int>(i);
    }
    std::stable_sort(order.begin(), order.end(), [of](int a, int b) { return of[a] > of[b]; });
  }

  // Calls f(encoder, samples, count) for every group of every encoder.
  template <class F>
  void for_groups(int encoders, const F& f) const {
    const int count = static_cast<int>(order.size()), groups = (count + nmer_fast::kGroup - 1) / nmer_fast::kGroup;
    parallel(0, static_cast<Index>(encoders) * groups, 1, [&](Index begin, Index end) {
      for (Index task = begin; task < end; ++task) {
        const int first = static_cast<int>(task % groups) * nmer_fast::kGroup;
        f(static_cast<int>(task / groups), order.data() + first, std::min(nmer_fast::kGroup, count - first));
      }
    });
  }
};

// [B, T, D] -> [rows, D]: each sample's valid steps, and rows of zeros: `more`, and until there are `least`.
Tensor packed_steps(const Tensor& input, const Tensor& lengths, Index more, Index least) {
  const Tensor x = packed(input);
  const Sequences sequences(lengths, more, least);
  Tensor out = output({sequences.rows, x.size(2)}, x.scalar_type());
  const Index* of = lengths.const_data_ptr<Index>();
  const Index step = x.size(2) * static_cast<Index>(x.element_size()), sample = x.size(1) * step;
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  parallel(0, x.size(0), 8, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      char* here = to + sequences.starts[b] * step;
      std::memcpy(here, from + b * sample, of[b] * step);
      std::memset(here + of[b] * step, 0, (std::max(of[b] + more, least) - of[b]) * step);
    }
  });
  return out;
}

// [rows, W] of samples that have a row more than steps -> [B, steps, W], each from its row `first` on; zeros beyond.
Tensor unpacked_steps(const Tensor& rows, const Tensor& lengths, Index steps, Index first) {
  const Sequences sequences(lengths);
  Tensor out = output({lengths.size(0), steps, rows.size(1)}, rows.scalar_type());
  const Index* of = lengths.const_data_ptr<Index>();
  const Index step = rows.size(1) * static_cast<Index>(rows.element_size());
  const auto* from = static_cast<const char*>(rows.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  parallel(0, lengths.size(0), 8, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      char* here = to + b * steps * step;
      std::memcpy(here, from + (sequences.starts[b] + first) * step, of[b] * step);
      std::memset(here + of[b] * step, 0, (steps - of[b]) * step);
    }
  });
  return out;
}

// inputs: packed_steps(x, lengths, 1, 0); the states' tensors have `capacity` rows, of which the first are used.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_recurrence(const Tensor& inputs, Index capacity,
                                                                   const Tensor& lengths, const Tensor& weight_ih,
                                                                   const Tensor& weight_hh, const Tensor& bias) {
  constexpr Index kTogether = 240;  // rows that read a panel while a cache holds it
  const auto& k = nmer_fast::kernels();
  const Sequences sequences(lengths);
  const Index encoders = weight_hh.size(0), width = weight_hh.size(2), depth = inputs.size(1);
  const int columns = static_cast<int>(encoders * 4 * width), dims = static_cast<int>(depth);
  Tensor panels = output({columns, depth}, ScalarType::Float);
  k.pack_columns(weight_ih.const_data_ptr<float>(), columns, 1, 0, dims, panels.mutable_data_ptr<float>());
  Tensor gates = output({capacity, encoders, 4 * width}, ScalarType::Float);
  const nmer_fast::Product projection{dims, columns, inputs.const_data_ptr<float>(), panels.const_data_ptr<float>(),
                                      bias.const_data_ptr<float>(), gates.mutable_data_ptr<float>()};
  const Index across = columns / k.panel_of(columns), parts = (sequences.rows + kTogether - 1) / kTogether;
  parallel(0, parts * across, 1, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const Index first = task / across * kTogether, last = std::min(first + kTogether, sequences.rows);
      k.product(projection, static_cast<int>(first), static_cast<int>(last), static_cast<int>(task % across));
    }
  });
  Tensor hidden = output({capacity, encoders, width}, ScalarType::Float), cell = output(hidden);
  Tensor pooled = output({lengths.size(0), encoders, width}, ScalarType::Float);
  Tensor argmax = output({lengths.size(0), encoders, width}, ScalarType::Long);
  const nmer_fast::Lstm lstm{
      static_cast<int>(encoders), static_cast<int>(width), lengths.const_data_ptr<Index>(), sequences.starts.data(),
      weight_hh.const_data_ptr<float>(), gates.mutable_data_ptr<float>(), hidden.mutable_data_ptr<float>(),
      cell.mutable_data_ptr<float>(), pooled.mutable_data_ptr<float>(), argmax.mutable_data_ptr<Index>()};
  sequences.for_groups(static_cast<int>(encoders), [&](int encoder, const int* samples, int count) {
    k.lstm(lstm, encoder, samples, count);
  });
  return {pooled, argmax, hidden, cell, gates};
}

// [rows, E, 4H]: gradients of the gates before their activations. grad: of the maxima, or with an empty argmax of all
// states, as packed_steps makes it.
Tensor lstm_recurrence_backward(const Tensor& grad_input, const Tensor& lengths, const Tensor& weight_hh,
                                const Tensor& argmax, const Tensor& cell, const Tensor& gates) {
  const Tensor grad = packed(grad_input);
  const Sequences sequences(lengths);
  const Index encoders = weight_hh.size(0), width = weight_hh.size(2);
  Tensor d_gates = output({sequences.rows, encoders, 4 * width}, ScalarType::Float);
  const nmer_fast::LstmBackward lstm{
      static_cast<int>(encoders), static_cast<int>(width), lengths.const_data_ptr<Index>(), sequences.starts.data(),
      weight_hh.const_data_ptr<float>(), gates.const_data_ptr<float>(), cell.const_data_ptr<float>(),
      grad.const_data_ptr<float>(), argmax.numel() > 0 ? argmax.const_data_ptr<Index>() : nullptr,
      d_gates.mutable_data_ptr<float>()};
  sequences.for_groups(static_cast<int>(encoders), [&](int encoder, const int* samples, int count) {
    nmer_fast::kernels().lstm_backward(lstm, encoder, samples, count);
  });
  return d_gates;
}

// inputs: packed_steps(x, lengths, 0, longest kernel); taps of each kernel [E, F, size, D]; biases [kernels, E, F].
std::tuple<Tensor, Tensor> windows_max(const Tensor& inputs, const Tensor& lengths, const std::vector<Tensor>& taps,
                                       const Tensor& biases) {
  constexpr int kTogether = 32;  // samples that read a panel while a cache holds it
  const auto& k = nmer_fast::kernels();
  const int batch = static_cast<int>(lengths.size(0)), encoders = static_cast<int>(biases.size(1));
  const int kernels = static_cast<int>(biases.size(0)), filters = static_cast<int>(biases.size(2));
  const int columns = encoders * filters, dims = static_cast<int>(inputs.size(1));
  std::vector<Tensor> weights;
  std::vector<int> sizes;
  std::vector<std::pair<int, int>> places;  // (kernel, tap) of every tap
  for (const Tensor& t : taps) {
    weights.push_back(packed(t));
    for (int tap = 0; tap < t.size(2); ++tap) places.emplace_back(sizes.size(), tap);
    sizes.push_back(static_cast<int>(t.size(2)));
  }
  const Sequences sequences(lengths, 0, *std::max_element(sizes.begin(), sizes.end()));
  Tensor panels = output({static_cast<Index>(places.size()), columns, dims}, ScalarType::Float);
  float* to = panels.mutable_data_ptr<float>();
  parallel(0, static_cast<Index>(places.size()), 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const auto [kernel, tap] = places[i];
      k.pack_columns(weights[kernel].const_data_ptr<float>(), columns, sizes[kernel], tap, dims, to + i * columns * dims);
    }
  });
  Tensor pooled = output({batch, encoders, kernels * filters}, ScalarType::Float);
  Tensor argmax = output({batch, encoders, kernels * filters}, ScalarType::Long);
  const nmer_fast::Convolution convolution{
      kernels, encoders, filters, dims, sizes.data(), lengths.const_data_ptr<Index>(), sequences.starts.data(),
      inputs.const_data_ptr<float>(), to, biases.const_data_ptr<float>(), pooled.mutable_data_ptr<float>(),
      argmax.mutable_data_ptr<Index>()};
  const int across = columns / k.panel_of(columns), groups = (batch + kTogether - 1) / kTogether;
  parallel(0, static_cast<Index>(across) * groups, 1, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const int first = static_cast<int>(task % groups) * kTogether;
      k.conv_max_pool(convolution, first, std::min(first + kTogether, batch), static_cast<int>(task / groups));
    }
  });
  return {pooled, argmax};
}

// Gradients [E, F, size, D] of the weights of each kernel, from those of pooled, which are 0 where ReLU cut.
std::vector<Tensor> winning_windows(const Tensor& inputs, const Tensor& lengths, const std::vector<Index>& sizes,
                                    const Tensor& grad, const Tensor& argmax) {
  const Index batch = lengths.size(0), kernels = static_cast<Index>(sizes.size()), encoders = grad.size(1);
  const Index filters = grad.size(2) / kernels, columns = encoders * filters, dims = inputs.size(1);
  const Sequences sequences(lengths, 0, *std::max_element(sizes.begin(), sizes.end()));
  const std::vector<int> kernel_sizes(sizes.begin(), sizes.end());
  const auto* from = grad.const_data_ptr<float>();
  const auto* when = argmax.const_data_ptr<Index>();
  std::vector<Index> wins(kernels * columns * batch);
  std::vector<float> grads(wins.size());
  for (Index b = 0; b < batch; ++b)
    for (Index e = 0; e < encoders; ++e)
      for (Index k = 0; k < kernels; ++k)
        for (Index f = 0; f < filters; ++f) {
          const Index source = ((b * encoders + e) * kernels + k) * filters + f;
          const Index to = (k * columns + e * filters + f) * batch + b;
          wins[to] = sequences.starts[b] + when[source];
          grads[to] = from[source];
        }
  std::vector<Tensor> out;
  std::vector<float*> to;
  for (const Index size : sizes) {
    out.push_back(output({encoders, filters, size, dims}, ScalarType::Float));
    to.push_back(out.back().mutable_data_ptr<float>());
  }
  const nmer_fast::ConvolutionBackward convolution{
      static_cast<int>(kernels), static_cast<int>(columns), static_cast<int>(batch), static_cast<int>(dims),
      inputs.size(0), kernel_sizes.data(), inputs.const_data_ptr<float>(), wins.data(), grads.data(), to.data()};
  const Index part = nmer_fast::kernels().conv_part;
  parallel(0, (dims + part - 1) / part, 1, [&](Index begin, Index end) {
    for (Index p = begin; p < end; ++p) nmer_fast::kernels().conv_max_pool_backward(convolution, static_cast<int>(p));
  });
  return out;
}

Tensor gather_padded(const Tensor& values_input, const Tensor& offsets_input, const Tensor& rows_input, Index steps,
                     const Optional& mean, const Optional& std, double clip) {
  const Tensor values = packed(values_input), offsets = packed(offsets_input), rows = packed(rows_input);
  const Index total = values.size(0), samples = offsets.size(0) - 1, batch = rows.size(0);
  const Index *edge = offsets.const_data_ptr<Index>(), *chosen = rows.const_data_ptr<Index>();
  std::vector<Index> starts(batch), lengths(batch);
  for (Index b = 0; b < batch; ++b) {  // values of tensors that Python does not look at, and memory is read by
    const Index row = chosen[b];
    STD_TORCH_CHECK(0 <= row && row < samples, "rows: expected 0 to ", samples - 1, ", got ", row);
    STD_TORCH_CHECK(0 <= edge[row] && edge[row] <= edge[row + 1] && edge[row + 1] <= total,
                    "offsets: expected to rise from 0 to ", total, ", got ", edge[row], " and ", edge[row + 1]);
    starts[b] = edge[row];
    lengths[b] = edge[row + 1] - edge[row];
  }
  const Index sizes[] = {batch, steps, values.size(1)};
  Tensor out = output(Sizes(sizes, 3), values.scalar_type());
  std::optional<nmer_fast::Standard> standard;
  std::optional<Tensor> m, s;
  if (mean.has_value() && std.has_value()) {
    m = packed(*mean), s = packed(*std);
    standard = {m->const_data_ptr<float>(), s->const_data_ptr<float>(), static_cast<float>(clip)};
  }
  nmer_fast::gather_padded(parallel, Samples(Type::float32, values.element_size(), out.sizes()),
                           values.const_data_ptr(), starts, lengths, standard ? &*standard : nullptr,
                           out.mutable_data_ptr());
  return out;
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
  m.impl("packed_steps", TORCH_BOX(&packed_steps));
  m.impl("unpacked_steps", TORCH_BOX(&unpacked_steps));
  m.impl("lstm_recurrence", TORCH_BOX(&lstm_recurrence));
  m.impl("lstm_recurrence_backward", TORCH_BOX(&lstm_recurrence_backward));
  m.impl("windows_max", TORCH_BOX(&windows_max));
  m.impl("winning_windows", TORCH_BOX(&winning_windows));
  m.impl("gather_padded", TORCH_BOX(&gather_padded));
}

// For tests and `python -m nmer_fast.ops`, through ctypes: torch needs neither.
extern "C" {
int nmer_fast_isa_count() { return static_cast<int>(nmer_fast::all_kernels().size()); }
const char* nmer_fast_isa_name(int i) { return nmer_fast::all_kernels()[i]->isa; }
const char* nmer_fast_isa() { return nmer_fast::kernels().isa; }
int nmer_fast_use_isa(const char* name) { return nmer_fast::use_kernels(name); }
}
