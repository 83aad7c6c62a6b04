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
#include "samples.h"

namespace nmer_fast {

inline constexpr Index kChunk = 16384;  // a task's elements at most, a multiple of 4: some tens of microseconds
inline constexpr Index kGrain = 16384;  // elements that make another thread worth its cost

// The shape of a contiguous array [B, ...], which is worked on sample by sample, or so many short samples together.
struct Samples {
  Type type;
  Index bytes, batch, steps = 1, row = 1, step_size, together = 1;
  template <class Sizes>
  Samples(Type of, Index element_bytes, const Sizes& sizes) : type(of), bytes(element_bytes), batch(sizes[0]) {
    for (std::size_t i = 1; i < sizes.size(); ++i) row *= sizes[i];
    if (sizes.size() > 1) steps = sizes[1];
    step_size = steps > 0 ? row / steps : 0;
  }
  // The same array, for kernels that take short samples together.
  Samples grouped() const {
    Samples out = *this;
    if (row > 0 && row <= kShort) out.together = kChunk / row;
    return out;
  }
  // The same elements as one sample, for what does not depend on the sample.
  Samples flat() const {
    Samples out = *this;
    out.row = out.step_size = batch * row, out.batch = out.steps = 1;
    return out;
  }
  bool is_short() const { return together > 1; }
  Index chunks() const { return (row + kChunk - 1) / kChunk; }
  Index tasks() const { return row == 0 ? 0 : (batch + together - 1) / together * chunks(); }
  Index valid(const Selection& s, Index sample, Index modality) const {
    return s.lengths ? std::clamp<Index>(s.lengths(sample, modality), 0, steps) * step_size : row;
  }
};

// Consecutive elements of one sample, of which the first `valid` are computed and the others become zero; or all
// elements of several short samples.
struct Run {
  Index modality, sample, samples, first, valid, count, bytes, offset;  // offset in bytes, from the array's start
  const char* in(const void* data) const { return static_cast<const char*>(data) + offset; }
  char* in(void* data) const { return static_cast<char*>(data) + offset; }
  void copy(const void* x, void* y) const { std::memcpy(in(y), in(x), valid * bytes); }
  void zero(void* y, Index from) const { std::memset(in(y) + from * bytes, 0, (count - from) * bytes); }
};

// Calls body(task, run) for every chunk of every sample, or every group of short samples, of every array, in parallel.
// The tasks' numbers do not depend on the threads.
void for_runs(const auto& parallel, const std::vector<Samples>& all, const Selection& selection, const auto& body) {
  std::vector<Index> ends;
  Index tasks = 0, elements = 0;
  for (const Samples& s : all) {
    ends.push_back(tasks += s.tasks());
    elements += s.batch * s.row;
  }
  if (tasks == 0) return;
  const Index grain = std::max<Index>(1, kGrain * tasks / std::max<Index>(elements, 1));
  parallel(0, tasks, grain, [&](Index begin, Index end) {
    for (Index task = begin; task < end; ++task) {
      const Index m = std::upper_bound(ends.begin(), ends.end(), task) - ends.begin();
      const Samples& s = all[m];
      const Index local = task - (m > 0 ? ends[m - 1] : 0);
      if (s.is_short()) {
        const Index sample = local * s.together, samples = std::min(s.together, s.batch - sample);
        const Index count = samples * s.row;
        body(task, Run{m, sample, samples, 0, count, count, s.bytes, sample * s.row * s.bytes});
        continue;
      }
      const Index sample = local / s.chunks(), first = local % s.chunks() * kChunk;
      const Index count = std::min(kChunk, s.row - first);
      const Index valid = std::clamp<Index>(s.valid(selection, sample, m) - first, 0, count);
      body(task, Run{m, sample, 1, first, valid, count, s.bytes, (sample * s.row + first) * s.bytes});
    }
  });
}

}  // namespace nmer_fast
