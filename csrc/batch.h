// Shared parts of the ops on whole batches: which samples and steps are valid, and how they are cut into tasks for
// threads.
//
// An op on a whole batch takes `parallel(begin, end, grain, body(begin, end))` and the table of kernels from its
// caller. Its result does not depend on how `parallel` divides the work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dtypes.h"

namespace nmer_fast {

using Index = std::int64_t;

inline constexpr Index kChunk = 16384;  // a task's elements at most, a multiple of 4: some tens of microseconds
inline constexpr Index kGrain = 16384;  // elements that make another thread worth its cost

// One value for each sample (and each modality, where there are several), or one value for all of them.
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

// Which samples get noise, and how many of their steps are valid.
struct Selection {
  PerSample<bool> noisy{true};
  PerSample<Index> lengths{0};
};

// The shape of a contiguous array [B, ...], which is worked on sample by sample.
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

// Consecutive elements of one sample. The first `valid` of them are computed; the others become zero.
struct Run {
  Index modality, sample, first, valid, count, bytes, offset;  // offset in bytes, from the array's start
  const char* in(const void* data) const { return static_cast<const char*>(data) + offset; }
  char* in(void* data) const { return static_cast<char*>(data) + offset; }
  void copy(const void* x, void* y) const { std::memcpy(in(y), in(x), valid * bytes); }
  void zero(void* y, Index from) const { std::memset(in(y) + from * bytes, 0, (count - from) * bytes); }
};

// Calls body(task, run) for every chunk of every sample of every array, in parallel. The tasks' numbers do not depend
// on the threads.
void for_runs(const auto& parallel, const std::vector<Samples>& all, const Selection& selection, const auto& body) {
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

}  // namespace nmer_fast
