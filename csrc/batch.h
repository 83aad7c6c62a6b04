// The ops on whole batches: which samples and steps count, cut into tasks for the threads. No torch here; a binding brings
// its own `parallel(begin, end, grain, body(begin, end))`. Results do not depend on how it divides the work.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels.h"

namespace nmer_fast {

using Index = std::int64_t;

inline constexpr Index kChunk = 16384;  // elements of a task at most: a multiple of 4, and some tens of microseconds
inline constexpr Index kGrain = 16384;  // elements that are worth another thread

// Values by sample, and by modality where there are several; or one for all.
template <class T>
struct PerSample {
  T otherwise;
  const T* data = nullptr;
  Index row = 0, column = 0;
  explicit operator bool() const { return data != nullptr; }
  T operator()(Index sample, Index modality = 0) const {
    return data == nullptr ? otherwise : data[sample * row + modality * column];
  }
};

// What all samples' noise has in common, and each one's own.
struct Source {
  Noise base;
  PerSample<Index> ids{0};
  Source(std::uint64_t seed, std::uint32_t draw, Kind kind, double p, PerSample<Index> sample_ids)
      : base{seed, draw, 0, 0, kind, static_cast<std::uint32_t>(std::ceil(p * 0x1p31))}, ids(sample_ids) {}
  Noise of(Index sample, Index stream) const {
    Noise noise = base;
    noise.stream = static_cast<std::uint32_t>(stream);
    noise.sample = static_cast<std::uint64_t>(ids ? ids(sample) : sample);
    return noise;
  }
};

// Which elements of a sample count and whether they are noisy.
struct Selection {
  PerSample<bool> noisy{true};
  PerSample<Index> lengths{0};
};

// One array [B, ...], contiguous, that is worked on sample by sample.
struct Samples {
  Type type;
  Index bytes, batch, steps = 1, row = 1, step_size;
  template <class Sizes>
  Samples(Type of, Index element_bytes, const Sizes& sizes) : type(of), bytes(element_bytes), batch(sizes[0]) {
    for (std::size_t i = 1; i < sizes.size(); ++i) row *= sizes[i];
    if (sizes.size() > 1) steps = sizes[1];
    step_size = steps > 0 ? row / steps : 0;
  }
  Index chunks() const { return (row + kChunk - 1) / kChunk; }
  Index valid(const Selection& s, Index sample, Index modality) const {
    return s.lengths ? std::clamp<Index>(s.lengths(sample, modality), 0, steps) * step_size : row;
  }
};

// A run of a sample's elements: those below `valid` count, the rest is zero.
struct Run {
  Index modality, sample, first, valid, count, bytes, offset;  // offset in bytes, from the array's start
  const char* in(const void* data) const { return static_cast<const char*>(data) + offset; }
  char* in(void* data) const { return static_cast<char*>(data) + offset; }
  void copy(const void* x, void* y) const { std::memcpy(in(y), in(x), valid * bytes); }
  void zero(void* y, Index from) const { std::memset(in(y) + from * bytes, 0, (count - from) * bytes); }
};

// Calls body(task, run) for every chunk of every sample of every array, in parallel; a task's number does not depend on the
// threads.
template <class Parallel, class Body>
void for_runs(const Parallel& parallel, const std::vector<Samples>& all, const Selection& selection, const Body& body) {
  std::vector<Index> ends;
  Index tasks = 0, elements = 0;
  for (const Samples& s : all) {
    ends.push_back(tasks += s.batch * s.chunks());
    elements += s.batch * s.row;
  }
  if (tasks == 0) return;
  const Index grain = std::max<Index>(1, kGrain * tasks / std::max<Index>(elements, 1));
  parallel(0, tasks, grain, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const Index m = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
      const Samples& s = all[m];
      const Index local = task - (m > 0 ? ends[m - 1] : 0);
      const Index sample = local / s.chunks(), first = local % s.chunks() * kChunk;
      const Index count = std::min(kChunk, s.row - first);
      const Index valid = std::clamp<Index>(s.valid(selection, sample, m) - first, 0, count);
      body(task, Run{m, sample, first, valid, count, s.bytes, (sample * s.row + first) * s.bytes});
    }
  });
}

template <class Parallel>
void noise(const Parallel& parallel, const Samples& s, const Source& source, Index stream, const Selection& selection,
           void* eps) {
  const Kernels& k = kernels();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index valid = selection.noisy(run.sample) ? run.valid : 0;
    if (valid > 0) k.noise(s.type, source.of(run.sample, stream), run.first, valid, run.in(eps));
    run.zero(eps, valid);
  });
}

// eps may be null.
template <class Parallel>
void add_noise(const Parallel& parallel, const Samples& s, const Source& source, Index stream,
               const Selection& selection, const PerSample<double>& alpha_bar, const void* x, void* y, void* eps) {
  const Kernels& k = kernels();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index noisy = selection.noisy(run.sample) ? run.valid : 0;
    if (noisy > 0) {
      k.add_noise(s.type, source.of(run.sample, stream), run.first, noisy, run.in(x), alpha_bar(run.sample), run.in(y),
                  eps == nullptr ? nullptr : run.in(eps), nullptr);
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
    if (eps != nullptr) run.zero(eps, noisy);
  });
}

// stats [M, 4] may be null: count, sums of x, x^2 and eps^2 over what is valid and noisy.
template <class Parallel>
void add_noise_multimodal(const Parallel& parallel, const std::vector<Samples>& all, const Source& source,
                          const std::vector<Index>& streams, const Selection& selection,
                          const PerSample<double>& alpha_bars, const std::vector<const void*>& xs,
                          const std::vector<void*>& ys, double* stats) {
  struct Partial {
    double count = 0, sums[3] = {};
  };
  Index tasks = 0;
  for (const Samples& s : all) tasks += s.batch * s.chunks();
  std::vector<Partial> partials(stats != nullptr ? tasks : 0);
  const Kernels& k = kernels();
  for_runs(parallel, all, selection, [&](Index task, const Run& run) {
    const Index m = run.modality;
    if (run.valid > 0 && selection.noisy(run.sample, m)) {
      Partial* partial = stats != nullptr ? &partials[task] : nullptr;
      if (partial != nullptr) partial->count = static_cast<double>(run.valid);
      k.add_noise(all[m].type, source.of(run.sample, streams[m]), run.first, run.valid, run.in(xs[m]),
                  alpha_bars(run.sample, m), run.in(ys[m]), nullptr, partial != nullptr ? partial->sums : nullptr);
    } else {
      run.copy(xs[m], ys[m]);
    }
    run.zero(ys[m], run.valid);
  });
  if (stats == nullptr) return;
  std::fill_n(stats, 4 * all.size(), 0.0);
  Index task = 0;
  for (const Samples& s : all) {  // in the tasks' order, so to the same bits for any number of threads
    for (const Index end = task + s.batch * s.chunks(); task < end; ++task) {
      stats[0] += partials[task].count;
      for (int j = 0; j < 3; ++j) stats[1 + j] += partials[task].sums[j];
    }
    stats += 4;
  }
}

template <class Parallel>
void mix_noise(const Parallel& parallel, const Samples& s, const Selection& selection,
               const PerSample<double>& alpha_bar, const void* x, const void* eps, void* y) {
  const Kernels& k = kernels();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    if (selection.noisy(run.sample)) {
      k.mix_noise(s.type, run.valid, run.in(x), run.in(eps), alpha_bar(run.sample), run.in(y));
    } else {
      run.copy(x, y);
    }
    run.zero(y, run.valid);
  });
}

// The gradient of x, or of the noise.
template <class Parallel>
void mix_noise_backward(const Parallel& parallel, const Samples& s, const Selection& selection,
                        const PerSample<double>& alpha_bar, bool wrt_noise, const void* grad, void* out) {
  const Kernels& k = kernels();
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const double kept = alpha_bar(run.sample);
    if (selection.noisy(run.sample)) {
      k.scaled(s.type, run.valid, run.in(grad), std::sqrt(wrt_noise ? 1 - kept : kept), run.in(out));
    } else if (!wrt_noise) {
      run.copy(grad, out);
    }
    run.zero(out, wrt_noise && !selection.noisy(run.sample) ? 0 : run.valid);
  });
}

// kl [B] is double for float64, else float.
template <class Parallel>
void reparameterize_kl(const Parallel& parallel, const Samples& s, const Source& source, Index stream, const void* mu,
                       const void* logvar, void* z, void* kl) {
  std::vector<double> partials(s.batch * s.chunks());
  const Kernels& k = kernels();
  for_runs(parallel, {s}, {}, [&](Index task, const Run& run) {
    k.reparameterize_kl(s.type, source.of(run.sample, stream), run.first, run.count, run.in(mu), run.in(logvar),
                        run.in(z), &partials[task]);
  });
  for (Index b = 0; b < s.batch; ++b) {
    const auto begin = partials.begin() + b * s.chunks();
    const double sum = std::accumulate(begin, begin + s.chunks(), 0.0);
    if (s.type == Type::float64) static_cast<double*>(kl)[b] = sum;
    else static_cast<float*>(kl)[b] = static_cast<float>(sum);
  }
}

template <class Parallel, class GradKL>
void reparameterize_kl_backward(const Parallel& parallel, const Samples& s, const Source& source, Index stream,
                                const void* grad_z, const PerSample<GradKL>& grad_kl, const void* mu,
                                const void* logvar, void* grad_mu, void* grad_logvar) {
  const Kernels& k = kernels();
  for_runs(parallel, {s}, {}, [&](Index, const Run& run) {
    k.reparameterize_kl_backward(s.type, source.of(run.sample, stream), run.first, run.count, run.in(grad_z),
                                 grad_kl(run.sample), run.in(mu), run.in(logvar), run.in(grad_mu),
                                 run.in(grad_logvar));
  });
}

}  // namespace nmer_fast
