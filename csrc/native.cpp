// The C++ kernels for NumPy arrays, and what this build is. No torch here.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "philox.h"

namespace py = pybind11;

namespace {

using Int64Array = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

Int64Array philox(std::uint64_t seed, const Int64Array& counter) {
  if (counter.ndim() == 0 || counter.shape(counter.ndim() - 1) != 4) {
    throw py::value_error("counter: expected int64 of shape [..., 4], four words of 0 to 2^32-1");
  }
  Int64Array words(std::vector<py::ssize_t>(counter.shape(), counter.shape() + counter.ndim()));
  nmer_fast::philox(seed, counter.data(), words.mutable_data(), counter.size() / 4);
  return words;
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
  return info;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "nmer_fast's C++ kernels for NumPy arrays, and facts about this build.";
  m.def("philox", &philox, py::arg("seed"), py::arg("counter"),
        "Philox4x32-10 words of counters [..., 4] under a 64-bit seed, as int64 of the same shape.");
  m.def("build_info", &build_info, "Compiler, C++ standard and architecture of this build.");
}
