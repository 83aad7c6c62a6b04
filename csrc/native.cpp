// Binds the ops on whole batches to NumPy arrays, and tells facts about this build. It translates arrays to pointers;
// nmer_fast/numpy.py checks arguments and allocates results. Nothing here knows torch.
#if __has_include(<sched.h>)
#include <sched.h>  // CPU_COUNT, on Linux
#endif

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "philox.h"

namespace py = pybind11;

namespace {

using nmer_fast::Index;
using nmer_fast::kernels;
using nmer_fast::Kind;
using nmer_fast::PerSample;
using nmer_fast::Samples;
using nmer_fast::Selection;
using nmer_fast::Source;
using nmer_fast::Type;
using Array = py::array;
using Maybe = std::optional<Array>;

// ---------------------------------------------------------------- arguments

Type type_of(const Array& a) {
  switch (a.itemsize()) {
    case 2: return Type::float16;
    case 4: return Type::float32;
    case 8: return Type::float64;
    default: throw py::type_error("dtype: expected float32, float16 or float64");
  }
}

Kind kind_of(const std::string& name) {
  const auto kind = nmer_fast::kind_named(name);
  if (!kind.has_value()) throw py::value_error(nmer_fast::unknown_kind(name));
  return *kind;
}

template <class T>
PerSample<T> per_sample(const Maybe& a, T otherwise) {
  if (!a.has_value()) return {otherwise};
  const auto stride = [&](int i) { return a->ndim() > i ? static_cast<Index>(a->strides(i) / a->itemsize()) : 0; };
  return {otherwise, static_cast<const T*>(a->data()), stride(0), stride(1)};
}

Samples samples_of(const Array& a) {
  return {type_of(a), a.itemsize(), std::vector<Index>(a.shape(), a.shape() + a.ndim())};
}

// (seed, draw, kind, p, sample ids), as Python packs them.
using Key = std::tuple<std::uint64_t, std::uint32_t, std::string, double, Maybe>;
Source source_of(const Key& key) {
  const auto& [seed, draw, kind, p, ids] = key;
  return {seed, draw, kind_of(kind), p, per_sample<Index>(ids, 0)};
}

Selection selection_of(const Maybe& noisy, const Maybe& lengths) {
  return {per_sample(noisy, true), per_sample<Index>(lengths, 0)};
}

// ---------------------------------------------------------------- threads

// The first number of OMP_NUM_THREADS; 0 where it is not set to a number of threads.
Index threads_asked_for() {
  const char* value = std::getenv("OMP_NUM_THREADS");
  return value == nullptr ? 0 : std::clamp<Index>(std::strtol(value, nullptr, 10), 0, 4096);
}

// The processors that this process may run on.
Index processors() {
#ifdef CPU_COUNT
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return std::max<Index>(1, std::thread::hardware_concurrency());
}

// Read once, as OpenMP does, since a call reads without the GIL that guards the environment.
const Index kAskedFor = threads_asked_for();

// Threads that are joined when they are left. (Apple's library has no std::jthread.)
struct Joined {
  std::vector<std::thread> threads;
  ~Joined() {
    for (std::thread& t : threads) t.join();
  }
};

// Starts threads for this call alone, as many as have some hundred microseconds of work each. The caller does its own
// part, and those for which the system refuses a thread.
constexpr auto parallel = [](Index begin, Index end, Index grain, const auto& body) {
  constexpr Index kGrains = 16;
  const Index useful = std::max<Index>(1, (end - begin) / (kGrains * grain));
  const Index threads = useful == 1 ? 1 : std::min(useful, kAskedFor > 0 ? kAskedFor : processors());
  const auto edge = [=](Index i) { return begin + (end - begin) * i / threads; };
  Joined others;
  try {
    for (Index i = 1; i < threads; ++i) others.threads.emplace_back([&, i] { body(edge(i), edge(i + 1)); });
  } catch (const std::exception&) {  // std::system_error, or std::bad_alloc
  }
  const Index started = 1 + static_cast<Index>(others.threads.size());
  body(begin, edge(1));
  if (started < threads) body(edge(started), end);
};

// ---------------------------------------------------------------- ops

void philox(std::uint64_t seed, const Array& counter, Array& words) {
  const auto* from = static_cast<const Index*>(counter.data());
  auto* to = static_cast<Index*>(words.mutable_data());
  const Index count = counter.size() / 4;
  const py::gil_scoped_release release;
  parallel(0, count, 4096,
           [=](Index begin, Index end) { nmer_fast::philox(seed, from + 4 * begin, to + 4 * begin, end - begin); });
}

void noise(const Key& key, Index stream, const Maybe& noisy, const Maybe& lengths, Array& eps) {
  const Samples s = samples_of(eps);
  const Source source = source_of(key);
  const Selection selection = selection_of(noisy, lengths);
  void* to = eps.mutable_data();
  const py::gil_scoped_release release;
  nmer_fast::noise(parallel, kernels(), s, source, stream, selection, to);
}

void add_noise(const Array& x, const Array& alpha_bar, const Key& key, Index stream, const Maybe& noisy,
               const Maybe& lengths, Array& y, std::optional<Array>& eps) {
  const Samples s = samples_of(x);
  const Source source = source_of(key);
  const Selection selection = selection_of(noisy, lengths);
  const auto keep = per_sample<double>(alpha_bar, 0);
  const void* from = x.data();
  void *to = y.mutable_data(), *eps_to = eps.has_value() ? eps->mutable_data() : nullptr;
  const py::gil_scoped_release release;
  nmer_fast::add_noise(parallel, kernels(), s, source, stream, selection, keep, from, to, eps_to);
}

void add_noise_multimodal(const std::vector<Array>& xs, const Array& alpha_bars, const Key& key,
                          const std::vector<Index>& streams, const Maybe& noisy, const Maybe& lengths,
                          std::vector<Array>& ys, std::optional<Array>& stats) {
  std::vector<Samples> all;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (std::size_t m = 0; m < xs.size(); ++m) {
    all.push_back(samples_of(xs[m]));
    from.push_back(xs[m].data());
    to.push_back(ys[m].mutable_data());
  }
  auto keep = per_sample<double>(alpha_bars, 0);
  if (alpha_bars.ndim() == 1) std::swap(keep.row, keep.column);  // [M]: one value for all samples of a modality
  const Source source = source_of(key);
  const Selection selection = selection_of(noisy, lengths);
  auto* sums = stats.has_value() ? static_cast<double*>(stats->mutable_data()) : nullptr;
  const py::gil_scoped_release release;
  nmer_fast::add_noise_multimodal(parallel, kernels(), all, source, streams, selection, keep, from, to, sums);
}

void mix_noise(const Array& x, const Array& eps, const Array& alpha_bar, const Maybe& noisy, const Maybe& lengths,
               Array& y) {
  const Samples s = samples_of(x);
  const Selection selection = selection_of(noisy, lengths);
  const auto keep = per_sample<double>(alpha_bar, 0);
  const void *from = x.data(), *eps_from = eps.data();
  void* to = y.mutable_data();
  const py::gil_scoped_release release;
  nmer_fast::mix_noise(parallel, kernels(), s, selection, keep, from, eps_from, to);
}

void reparameterize_kl(const Array& mu, const Array& logvar, const Key& key, Index stream, Array& z, Array& kl) {
  const Samples s = samples_of(mu);
  const Source source = source_of(key);
  const void *mu_from = mu.data(), *logvar_from = logvar.data();
  void *z_to = z.mutable_data(), *kl_to = kl.mutable_data();
  const py::gil_scoped_release release;
  nmer_fast::reparameterize_kl(parallel, kernels(), s, source, stream, mu_from, logvar_from, z_to, kl_to);
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["cxx_standard"] = __cplusplus / 100 % 100;
#if defined(__x86_64__)
  info["architecture"] = "x86-64";
#elif defined(__aarch64__)
  info["architecture"] = "aarch64";
#else
  info["architecture"] = "other";
#endif
  info["isa"] = kernels().isa;
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "nmer_fast's C++ kernels on NumPy arrays, unchecked (nmer_fast.numpy checks), and facts about this build.";
  m.attr("INTERFACE") = nmer_fast::kInterface;
  py::list kinds;
  for (const auto& [name, kind] : nmer_fast::kKinds) kinds.append(py::str(name.data(), name.size()));
  m.attr("KINDS") = py::tuple(kinds);
  m.def("philox", &philox);
  m.def("noise", &noise);
  m.def("add_noise", &add_noise);
  m.def("add_noise_multimodal", &add_noise_multimodal);
  m.def("mix_noise", &mix_noise);
  m.def("reparameterize_kl", &reparameterize_kl);
  m.def("build_info", &build_info, "Compiler, C++ standard, architecture and instruction set of this build.");
}
