// Samples of one flat array, end to end, into a padded batch; standardised on the way where asked to. No torch here.
#pragma once

#include "batch.h"

namespace nmer_fast {

// (x - mean) / std by column, within +-clip; to the bits that the same operations one after the other give.
struct Standard {
  const float *mean, *std;
  float clip;
  // `count` elements from element `first` of a sample whose rows have `dim`.
  void apply(const float* x, Index first, Index dim, Index count, float* __restrict y) const {
    for (Index done = 0, column = first % dim; done < count; column = 0) {
      const Index n = std::min(dim - column, count - done);
      const float *m = mean + column, *s = std + column, *from = x + done;
      float* to = y + done;
      for (Index i = 0; i < n; ++i) {
        const float value = (from[i] - m[i]) / s[i];
        const float above = value < -clip ? -clip : value;
        to[i] = above > clip ? clip : above;
      }
      done += n;
    }
  }
};

// out [batch, steps, dim] of elements of s.bytes: sample b's first steps are those of values [total, dim] from starts[b] on,
// lengths[b] of them at most; zero behind them. `standard`, of float32, may be null.
template <class Parallel>
void gather_padded(const Parallel& parallel, const Samples& s, const void* values, const std::vector<Index>& starts,
                   const std::vector<Index>& lengths, const Standard* standard, void* out) {
  Selection selection;
  selection.lengths = {0, lengths.data(), 1};
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index element = starts[run.sample] * s.step_size + run.first;
    const char* from = static_cast<const char*>(values) + element * s.bytes;
    if (standard != nullptr) {
      standard->apply(reinterpret_cast<const float*>(from), run.first, s.step_size, run.valid,
                      reinterpret_cast<float*>(run.in(out)));
    } else if (run.valid > 0) {
      std::memcpy(run.in(out), from, run.valid * s.bytes);
    }
    run.zero(out, run.valid);
  });
}

}  // namespace nmer_fast
