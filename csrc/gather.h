// Gathers samples that stand end to end in one flat array into a padded batch, and standardises them if asked to.
#pragma once

#include <stdexcept>
#include <string>

#include "batch.h"

namespace nmer_fast {

// (x - mean) / std for each column, limited to +-clip. The bits are those of the same operations one after the other.
struct Standard {
  const float *mean, *std;
  float clip;
  // Standardises `count` elements, from element `first` on, of a sample whose rows have `dim` elements.
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

// The chosen samples of a batch: the first step of each one in the flat array, and its number of steps.
struct Chosen {
  std::vector<Index> starts, lengths;

  // `rows` [batch] are samples, and sample i is the steps offsets[i] to offsets[i + 1] - 1 of `total`. Python does not
  // check the values of these arrays, and they are used as addresses, so a value out of range is an error here.
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

// out [batch, steps, dim]: the first steps of each chosen sample of values [total, dim], then zeros. Elements have
// s.bytes bytes. `standard` may be null; else the elements are float32.
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
