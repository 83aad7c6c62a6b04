// Converts a padded batch of sequences to rows that stand end to end, and back, so that kernels see valid steps alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "batch.h"

namespace nmer_fast {

// Where the rows of each sample stand. They are its valid steps, then rows of zeros.
struct Sequences {
  const Index* lengths;       // valid steps of each sample
  std::vector<Index> starts;  // first row of each sample, and the number of all rows

  // Each sample has `more` rows of zeros, or as many as give it `least` rows in all, whichever are more.
  Sequences(const Index* valid, Index count, Index more, Index least) : lengths(valid), starts(count + 1) {
    for (Index i = 0; i < count; ++i) starts[i + 1] = starts[i] + std::max(lengths[i] + more, least);
  }
  Index count() const { return static_cast<Index>(starts.size()) - 1; }
  Index rows() const { return starts.back(); }
};

// [count, steps] -> [rows]. A step has `step` bytes.
void packed_steps(const auto& parallel, const Sequences& sequences, Index steps, Index step, const void* x,
                  void* rows) {
  parallel(0, sequences.count(), 8, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      const Index valid = sequences.lengths[b], all = sequences.starts[b + 1] - sequences.starts[b];
      char* to = static_cast<char*>(rows) + sequences.starts[b] * step;
      std::memcpy(to, static_cast<const char*>(x) + b * steps * step, valid * step);
      std::memset(to + valid * step, 0, (all - valid) * step);
    }
  });
}

// [rows] -> [count, steps]: the valid steps of each sample, read from its row `first` on, then zeros. A step has `step`
// bytes.
void unpacked_steps(const auto& parallel, const Sequences& sequences, Index steps, Index step, Index first,
                    const void* rows, void* x) {
  parallel(0, sequences.count(), 8, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      const Index valid = sequences.lengths[b];
      char* to = static_cast<char*>(x) + b * steps * step;
      std::memcpy(to, static_cast<const char*>(rows) + (sequences.starts[b] + first) * step, valid * step);
      std::memset(to + valid * step, 0, (steps - valid) * step);
    }
  });
}

}  // namespace nmer_fast
