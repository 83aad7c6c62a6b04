// Binds the ops on whole batches to torch.ops.nmer_fast, through libtorch's stable ABI. It translates tensors to
// pointers and allocates outputs. The schemas are defined in Python (nmer_fast/ops), so that the reference serves where
// this library is missing; arguments are checked there.
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>  // MADV_HUGEPAGE, on Linux
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "gather.h"
#include "kernels.h"
#include "philox.h"

namespace {

using nmer_fast::Index;
using nmer_fast::kernels;
using nmer_fast::Kind;
using nmer_fast::PerSample;
using nmer_fast::Samples;
using nmer_fast::Selection;
using nmer_fast::Sequences;
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
  const auto kind = nmer_fast::kind_named(name);
  STD_TORCH_CHECK(kind.has_value(), nmer_fast::unknown_kind(name));
  return *kind;
}

// A direct call must not read beyond a tensor. A dim of size 1 serves all rows or columns.
void check_extents(const char* name, const Tensor& t, Index batch, Index columns) {
  const auto fits = [&](Index dim, Index wanted) {
    return t.dim() <= dim || t.size(dim) == 1 || t.size(dim) == wanted;
  };
  STD_TORCH_CHECK(t.dim() <= 2 && fits(0, batch) && fits(1, columns), name, ": expected one value, or one for each of ",
                  batch, " samples and ", columns, " modalities");
}

template <class T>
PerSample<T> per_sample(const char* name, const Optional& t, T otherwise, Index batch, Index columns = 1) {
  if (!t.has_value()) return {otherwise};
  check_extents(name, *t, batch, columns);
  const auto stride = [&](Index dim) { return t->dim() > dim && t->size(dim) > 1 ? t->stride(dim) : 0; };
  return {otherwise, t->const_data_ptr<T>(), stride(0), stride(1)};
}

Source source_of(const Tensor& rng, const Optional& sample_ids, const Optional& p, Kind kind, Index batch) {
  STD_TORCH_CHECK(rng.dim() == 1 && rng.size(0) == 2, "rng: expected int64 [2] = (seed, draw)");
  STD_TORCH_CHECK(!p.has_value() || p->numel() == 1, "p: expected one value");
  const auto* words = rng.const_data_ptr<Index>();
  const auto draw = static_cast<std::uint32_t>(words[rng.stride(0)]);
  const double share = p.has_value() ? *p->const_data_ptr<double>() : 0;
  return {static_cast<std::uint64_t>(words[0]), draw, kind, share,
          per_sample<Index>("sample_ids", sample_ids, 0, batch)};
}

Selection selection_of(const Optional& noisy, const Optional& lengths, Index batch, Index columns = 1) {
  return {per_sample("noisy", noisy, true, batch, columns), per_sample<Index>("lengths", lengths, 0, batch, columns)};
}

void check_same(const char* name, const Tensor& t, const Tensor& like) {
  bool same = t.scalar_type() == like.scalar_type() && t.dim() == like.dim();
  for (Index dim = 0; same && dim < t.dim(); ++dim) same = t.size(dim) == like.size(dim);
  STD_TORCH_CHECK(same, name, ": expected the shape and dtype of the first tensor");
}

Samples samples_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() > 0, "expected a tensor [B, ...] with a batch dimension");
  return {type_of(t.scalar_type()), static_cast<Index>(t.element_size()), t.sizes()};
}

Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // its name in the headers of torch 2.11
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

// ---------------------------------------------------------------- results and threads

// An uninitialised tensor. A large one asks for huge pages, because the page faults of the first write would cost more
// than the noise. It is allocated through the C shim, because the stable header's functions look their operator up by
// name in every call, 1 us each.
Tensor output(Sizes sizes, ScalarType dtype) {
  std::vector<Index> strides(sizes.size(), 1);
  for (std::size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<Index>(sizes[i], 1);
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(static_cast<Index>(sizes.size()), sizes.data(), strides.data(),
                               torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(dtype)),
                               aoti_torch_device_type_cpu(), 0, &handle));
  Tensor out(handle);
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kHugePage = 2 << 20;
  const auto start = reinterpret_cast<std::uintptr_t>(out.mutable_data_ptr());
  const std::uintptr_t end = start + out.numel() * out.element_size();
  const std::uintptr_t aligned = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (end >= aligned + kHugePage) madvise(reinterpret_cast<void*>(aligned), end - aligned, MADV_HUGEPAGE);
#endif
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
  parallel(0, in.numel() / 4, grain,
           [=](Index begin, Index end) { nmer_fast::philox(key, src + 4 * begin, dst + 4 * begin, end - begin); });
  return out;
}

Tensor noise(const std::vector<Index>& size, const Tensor& rng, const Optional& sample_ids, const Optional& noisy,
             const Optional& lengths, const Optional& p, Index stream, const std::string& kind, ScalarType dtype) {
  Tensor eps = output(Sizes(size.data(), size.size()), dtype);
  const Samples s = samples_of(eps);
  nmer_fast::noise(parallel, kernels(), s, source_of(rng, sample_ids, p, kind_of(kind), s.batch), stream,
                   selection_of(noisy, lengths, s.batch), eps.mutable_data_ptr());
  return eps;
}

std::tuple<Tensor, Tensor> add_noise(const Tensor& input, const Tensor& alpha_bar, const Tensor& rng,
                                     const Optional& sample_ids, const Optional& noisy, const Optional& lengths,
                                     const Optional& p, Index stream, const std::string& kind, bool return_noise) {
  const Tensor x = packed(input);
  Tensor y = output(x), eps = return_noise ? output(x) : output({0}, x.scalar_type());
  const Samples s = samples_of(x);
  nmer_fast::add_noise(parallel, kernels(), s, source_of(rng, sample_ids, p, kind_of(kind), s.batch), stream,
                       selection_of(noisy, lengths, s.batch), per_sample<double>("alpha_bar", alpha_bar, 0, s.batch),
                       x.const_data_ptr(), y.mutable_data_ptr(), return_noise ? eps.mutable_data_ptr() : nullptr);
  return {y, eps};
}

std::tuple<std::vector<Tensor>, Tensor> add_noise_multimodal(const std::vector<Tensor>& inputs,
                                                             const Tensor& alpha_bars, const Tensor& rng,
                                                             const Optional& sample_ids, const Optional& noisy,
                                                             const Optional& lengths, const Optional& p,
                                                             const std::vector<Index>& streams, const std::string& kind,
                                                             bool return_stats) {
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
  const auto count = static_cast<Index>(xs.size());
  const Index batch = all.empty() ? 0 : all[0].batch;
  for (const Samples& s : all) STD_TORCH_CHECK(s.batch == batch, "xs: expected tensors of one batch");
  STD_TORCH_CHECK(streams.size() == xs.size(), "streams: expected one for each of xs");
  const bool by_modality = alpha_bars.dim() == 1;  // [M]: one value for all samples of a modality
  auto keep = per_sample<double>("alpha_bars", alpha_bars, 0, by_modality ? count : batch, count);
  if (by_modality) std::swap(keep.row, keep.column);
  Tensor stats = output({return_stats ? static_cast<Index>(xs.size()) : 0, 4}, ScalarType::Double);
  nmer_fast::add_noise_multimodal(parallel, kernels(), all, source_of(rng, sample_ids, p, kind_of(kind), batch),
                                  streams, selection_of(noisy, lengths, batch, count), keep, from, to,
                                  return_stats ? stats.mutable_data_ptr<double>() : nullptr);
  return {ys, stats};
}

Tensor mix_noise(const Tensor& input, const Tensor& noise_input, const Tensor& alpha_bar, const Optional& noisy,
                 const Optional& lengths) {
  const Tensor x = packed(input), eps = packed(noise_input);
  Tensor y = output(x);
  check_same("eps", eps, x);
  const Samples s = samples_of(x);
  nmer_fast::mix_noise(parallel, kernels(), s, selection_of(noisy, lengths, s.batch),
                       per_sample<double>("alpha_bar", alpha_bar, 0, s.batch), x.const_data_ptr(), eps.const_data_ptr(),
                       y.mutable_data_ptr());
  return y;
}

Tensor mix_noise_backward(const Tensor& input, const Tensor& alpha_bar, const Optional& noisy, const Optional& lengths,
                          bool wrt_noise) {
  const Tensor grad = packed(input);
  Tensor out = output(grad);
  const Samples s = samples_of(grad);
  nmer_fast::mix_noise_backward(parallel, kernels(), s, selection_of(noisy, lengths, s.batch),
                                per_sample<double>("alpha_bar", alpha_bar, 0, s.batch), wrt_noise,
                                grad.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> reparameterize_kl(const Tensor& mu_input, const Tensor& logvar_input, const Tensor& rng,
                                             const Optional& sample_ids, Index stream) {
  const Tensor mu = packed(mu_input), logvar = packed(logvar_input);
  check_same("logvar", logvar, mu);
  const Samples s = samples_of(mu);
  Tensor z = output(mu), kl = output({s.batch}, s.type == Type::float64 ? ScalarType::Double : ScalarType::Float);
  nmer_fast::reparameterize_kl(
      parallel, kernels(), s, source_of(rng, sample_ids, std::nullopt, Kind::gaussian, s.batch), stream,
      mu.const_data_ptr(), logvar.const_data_ptr(), z.mutable_data_ptr(), kl.mutable_data_ptr());
  return {z, kl};
}

std::tuple<Tensor, Tensor> reparameterize_kl_backward(const Tensor& grad_z_input, const Tensor& grad_kl,
                                                      const Tensor& mu_input, const Tensor& logvar_input,
                                                      const Tensor& rng, const Optional& sample_ids, Index stream) {
  const Tensor grad_z = packed(grad_z_input), mu = packed(mu_input), logvar = packed(logvar_input);
  check_same("grad_z", grad_z, mu);
  check_same("logvar", logvar, mu);
  const Samples s = samples_of(mu);
  Tensor grad_mu = output(mu), grad_logvar = output(mu);
  const auto run = [&](const auto& gk) {
    nmer_fast::reparameterize_kl_backward(parallel, kernels(), s,
                                          source_of(rng, sample_ids, std::nullopt, Kind::gaussian, s.batch), stream,
                                          grad_z.const_data_ptr(), gk, mu.const_data_ptr(), logvar.const_data_ptr(),
                                          grad_mu.mutable_data_ptr(), grad_logvar.mutable_data_ptr());
  };
  if (s.type == Type::float64) run(per_sample<double>("grad_kl", grad_kl, 0, s.batch));
  else run(per_sample<float>("grad_kl", grad_kl, 0, s.batch));
  return {grad_mu, grad_logvar};
}

Sequences sequences_of(const Tensor& lengths, Index more, Index least) {
  return {lengths.const_data_ptr<Index>(), lengths.numel(), more, least};
}

Index bytes_of_row(const Tensor& t) { return t.size(t.dim() - 1) * static_cast<Index>(t.element_size()); }

// [B, T, D] -> [rows, D], as nmer_fast::Sequences says.
Tensor packed_steps(const Tensor& input, const Tensor& lengths, Index more, Index least) {
  const Tensor x = packed(input);
  const Sequences sequences = sequences_of(lengths, more, least);
  Tensor out = output({sequences.rows(), x.size(2)}, x.scalar_type());
  nmer_fast::packed_steps(parallel, sequences, x.size(1), bytes_of_row(x), x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

// [rows, W] -> [B, steps, W], where each sample has one row more than it has steps.
Tensor unpacked_steps(const Tensor& rows, const Tensor& lengths, Index steps, Index first) {
  Tensor out = output({lengths.size(0), steps, rows.size(1)}, rows.scalar_type());
  nmer_fast::unpacked_steps(parallel, sequences_of(lengths, 1, 0), steps, bytes_of_row(rows), first,
                            rows.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

// `inputs` is packed_steps(x, lengths, 1, 0). The results' tensors have `capacity` rows, of which the first are used.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> lstm_recurrence(const Tensor& inputs, Index capacity,
                                                                   const Tensor& lengths, const Tensor& weight_ih,
                                                                   const Tensor& weight_hh, const Tensor& bias) {
  const Sequences sequences = sequences_of(lengths, 1, 0);
  const Index batch = lengths.size(0), encoders = weight_hh.size(0), width = weight_hh.size(2), depth = inputs.size(1);
  Tensor panels = output({encoders * 4 * width, depth}, ScalarType::Float);
  Tensor gates = output({capacity, encoders, 4 * width}, ScalarType::Float);
  Tensor hidden = output({capacity, encoders, width}, ScalarType::Float), cell = output(hidden);
  Tensor pooled = output({batch, encoders, width}, ScalarType::Float);
  Tensor argmax = output({batch, encoders, width}, ScalarType::Long);
  const nmer_fast::Product projection{
      .depth = static_cast<int>(depth),
      .columns = static_cast<int>(encoders * 4 * width),
      .a = inputs.const_data_ptr<float>(),
      .panels = panels.const_data_ptr<float>(),
      .bias = bias.const_data_ptr<float>(),
      .out = gates.mutable_data_ptr<float>(),
  };
  const nmer_fast::Lstm lstm{
      .encoders = static_cast<int>(encoders),
      .width = static_cast<int>(width),
      .lengths = sequences.lengths,
      .starts = sequences.starts.data(),
      .weight_hh = weight_hh.const_data_ptr<float>(),
      .gates = gates.mutable_data_ptr<float>(),
      .hidden = hidden.mutable_data_ptr<float>(),
      .cell = cell.mutable_data_ptr<float>(),
      .pooled = pooled.mutable_data_ptr<float>(),
      .argmax = argmax.mutable_data_ptr<Index>(),
  };
  nmer_fast::lstm_recurrence(parallel, kernels(), sequences, projection, weight_ih.const_data_ptr<float>(),
                             panels.mutable_data_ptr<float>(), lstm);
  return {pooled, argmax, hidden, cell, gates};
}

// The gradients of the gates before their activations, [rows, E, 4H]. `grad` is the gradient of the maxima, or, with an
// empty argmax, that of all states as packed_steps packs it.
Tensor lstm_recurrence_backward(const Tensor& grad_input, const Tensor& lengths, const Tensor& weight_hh,
                                const Tensor& argmax, const Tensor& cell, const Tensor& gates) {
  const Tensor grad = packed(grad_input);
  const Sequences sequences = sequences_of(lengths, 1, 0);
  const Index encoders = weight_hh.size(0), width = weight_hh.size(2);
  Tensor d_gates = output({sequences.rows(), encoders, 4 * width}, ScalarType::Float);
  const nmer_fast::LstmBackward lstm{
      .encoders = static_cast<int>(encoders),
      .width = static_cast<int>(width),
      .lengths = sequences.lengths,
      .starts = sequences.starts.data(),
      .weight_hh = weight_hh.const_data_ptr<float>(),
      .gates = gates.const_data_ptr<float>(),
      .cell = cell.const_data_ptr<float>(),
      .grad = grad.const_data_ptr<float>(),
      .argmax = argmax.numel() > 0 ? argmax.const_data_ptr<Index>() : nullptr,
      .d_gates = d_gates.mutable_data_ptr<float>(),
  };
  nmer_fast::lstm_recurrence_backward(parallel, kernels(), sequences, lstm);
  return d_gates;
}

// `inputs` is packed_steps(x, lengths, 0, longest kernel); each kernel's taps are [E, F, size, D]; biases is [kernels,
// E, F].
std::tuple<Tensor, Tensor> windows_max(const Tensor& inputs, const Tensor& lengths, const std::vector<Tensor>& taps,
                                       const Tensor& biases) {
  const Index batch = lengths.size(0), kernel_count = biases.size(0);
  const Index encoders = biases.size(1), filters = biases.size(2);
  std::vector<Tensor> weights;
  std::vector<const float*> from;
  std::vector<int> sizes;
  for (const Tensor& t : taps) {
    weights.push_back(packed(t));
    from.push_back(weights.back().const_data_ptr<float>());
    sizes.push_back(static_cast<int>(t.size(2)));
  }
  const Sequences sequences = sequences_of(lengths, 0, *std::max_element(sizes.begin(), sizes.end()));
  const Index all_taps = std::accumulate(sizes.begin(), sizes.end(), Index{0});
  Tensor panels = output({all_taps, encoders * filters, inputs.size(1)}, ScalarType::Float);
  Tensor pooled = output({batch, encoders, kernel_count * filters}, ScalarType::Float);
  Tensor argmax = output({batch, encoders, kernel_count * filters}, ScalarType::Long);
  const nmer_fast::Convolution convolution{
      .kernels = static_cast<int>(kernel_count),
      .encoders = static_cast<int>(encoders),
      .filters = static_cast<int>(filters),
      .dims = static_cast<int>(inputs.size(1)),
      .sizes = sizes.data(),
      .lengths = sequences.lengths,
      .starts = sequences.starts.data(),
      .inputs = inputs.const_data_ptr<float>(),
      .panels = panels.const_data_ptr<float>(),
      .biases = biases.const_data_ptr<float>(),
      .pooled = pooled.mutable_data_ptr<float>(),
      .argmax = argmax.mutable_data_ptr<Index>(),
  };
  nmer_fast::windows_max(parallel, kernels(), sequences, from, panels.mutable_data_ptr<float>(), convolution);
  return {pooled, argmax};
}

// The gradients of each kernel's weights, [E, F, size, D]. `grad` is the gradient of pooled, 0 where ReLU was 0.
std::vector<Tensor> winning_windows(const Tensor& inputs, const Tensor& lengths, const std::vector<Index>& sizes,
                                    const Tensor& grad, const Tensor& argmax) {
  const Index kernel_count = static_cast<Index>(sizes.size()), encoders = grad.size(1), dims = inputs.size(1);
  const Index filters = grad.size(2) / kernel_count;
  const std::vector<int> kernel_sizes(sizes.begin(), sizes.end());
  std::vector<Tensor> out;
  std::vector<float*> to;
  for (const Index size : sizes) {
    out.push_back(output({encoders, filters, size, dims}, ScalarType::Float));
    to.push_back(out.back().mutable_data_ptr<float>());
  }
  const nmer_fast::ConvolutionBackward convolution{
      .kernels = static_cast<int>(kernel_count),
      .columns = static_cast<int>(encoders * filters),
      .samples = static_cast<int>(lengths.size(0)),
      .dims = static_cast<int>(dims),
      .rows = inputs.size(0),
      .sizes = kernel_sizes.data(),
      .inputs = inputs.const_data_ptr<float>(),
      .wins = nullptr,  // winning_windows sets both
      .grads = nullptr,
      .grad_weights = to.data(),
  };
  nmer_fast::winning_windows(
      parallel, kernels(), sequences_of(lengths, 0, *std::max_element(sizes.begin(), sizes.end())),
      static_cast<int>(filters), grad.const_data_ptr<float>(), argmax.const_data_ptr<Index>(), convolution);
  return out;
}

Tensor gather_padded(const Tensor& values_input, const Tensor& offsets_input, const Tensor& rows_input, Index steps,
                     const Optional& mean, const Optional& std, double clip) {
  const Tensor values = packed(values_input), offsets = packed(offsets_input), rows = packed(rows_input);
  const nmer_fast::Chosen chosen(rows.const_data_ptr<Index>(), rows.size(0), offsets.const_data_ptr<Index>(),
                                 offsets.size(0) - 1, values.size(0));
  Tensor out = output({rows.size(0), steps, values.size(1)}, values.scalar_type());
  std::optional<nmer_fast::Standard> standard;
  std::optional<Tensor> m, s;
  if (mean.has_value() && std.has_value()) {
    m = packed(*mean), s = packed(*std);
    standard = {m->const_data_ptr<float>(), s->const_data_ptr<float>(), static_cast<float>(clip)};
  }
  nmer_fast::gather_padded(parallel, Samples(Type::float32, values.element_size(), out.sizes()),
                           values.const_data_ptr(), chosen, standard ? &*standard : nullptr, out.mutable_data_ptr());
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

// For tests and `python -m nmer_fast.ops`, which call these through ctypes.
extern "C" {
int nmer_fast_isa_count() { return static_cast<int>(nmer_fast::all_kernels().size()); }
const char* nmer_fast_isa_name(int i) { return nmer_fast::all_kernels()[i]->isa; }
const char* nmer_fast_isa() { return kernels().isa; }
int nmer_fast_use_isa(const char* name) { return nmer_fast::use_kernels(name); }
}
