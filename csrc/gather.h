// Samples of one flat array, end to end, into a padded batch; standardised on the way where asked to. No torch here.
#pragma once

#include <stdexcept>
#include <string>

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

// The samples of a flat array that a batch is made of: where each begins, and its steps.
struct Chosen {
  std::vector<Index> starts, lengths;

  // rows [batch], each of offsets [samples + 1] into `total` steps. Python does not look at the values of these
  // tensors, and memory is read by them, so a value out of range is thrown as an error.
  Chosen(const Index* rows, Index batch, const Index* offsets, Index samples, Index total) {
    const auto text = [](Index number) { return std::to_string(number); };
    for (Index b = 0; b < batch; ++b) {
      const Index row = rows[b];
      if (row < 0 || row >= samples) {
        throw std::runtime_error("rows: expected 0 to " + text(samples - 1) + ", got " + text(row));
      }
      const Index first = offsets[row], last = offsets[row + 1];
      if (first < 0 || first > last || last > total) {
        throw std::runtime_error("offsets: expected to rise from 0 to " + text(total) + ", got " + text(first) +
                                 " and " + text(last));
      }
      starts.push_back(first);
      lengths.push_back(last - first);
    }
  }
};

// out [batch, steps, dim] of elements of s.bytes: the first steps of each chosen sample of values [total, dim]; zero
// behind them. `standard`, for float32, may be null.
void gather_padded(const auto& parallel, const Samples& s, const void* values, const Chosen& chosen,
                   const Standard* standard, void* out) {
  Selection selection;
  selection.lengths = {0, chosen.lengths.data(), 1};
  for_runs(parallel, {s}, selection, [&](Index, const Run& run) {
    const Index element = chosen.starts[run.sample] * s.step_size + run.first;
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
