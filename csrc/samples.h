// Values that a sample of a batch may have of its own, and runs of short samples that are worked on together. Ops on
// whole batches and kernels share them, so they are plain data, and what computes is inlined into each instruction set.
#pragma once

#include <cstdint>

namespace nmer_fast {

using Index = std::int64_t;

// One value for each sample (and each modality, where there are several), or one value for all of them.
template <class T>
struct PerSample {
  T otherwise;
  const T* data = nullptr;
  Index row = 0, column = 0;
  [[gnu::always_inline]] explicit operator bool() const { return data != nullptr; }
  [[gnu::always_inline]] T operator()(Index sample, Index modality = 0) const {
    return data == nullptr ? otherwise : data[sample * row + modality * column];
  }
  [[gnu::always_inline]] bool differs() const { return data != nullptr && row != 0; }
  // The values from a sample on, of one modality.
  PerSample from(Index sample, Index modality = 0) const {
    return {otherwise, data == nullptr ? nullptr : data + sample * row + modality * column, row};
  }
};

// Which samples get noise, and how many of their steps are valid.
struct Selection {
  PerSample<bool> noisy{true};
  PerSample<Index> lengths{0};
  [[gnu::always_inline]] explicit operator bool() const { return noisy || lengths; }
  Selection from(Index sample, Index modality) const {
    return {noisy.from(sample, modality), lengths.from(sample, modality)};
  }
};

// Whole consecutive samples, of `size` elements each, that a kernel works on together. Everything per sample begins at
// the first of them.
struct ShortRows {
  Index count, size, steps, step_size;
  PerSample<Index> ids{0};  // without data, `first_id` and the numbers after it
  std::uint64_t first_id = 0;
  Selection selection;

  [[gnu::always_inline]] std::uint64_t id(Index row) const {
    return ids ? static_cast<std::uint64_t>(ids(row)) : first_id + static_cast<std::uint64_t>(row);
  }
  // The valid elements of a row.
  [[gnu::always_inline]] Index valid(Index row) const {
    if (!selection.lengths) return size;
    const Index length = selection.lengths(row);
    return (length < 0 ? 0 : length > steps ? steps : length) * step_size;
  }
};

// A sample of at most so many elements is short: several of them fit a kernel's block.
inline constexpr Index kShort = 256;

}  // namespace nmer_fast
