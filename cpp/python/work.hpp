// The Work of this backend as a class of Python's.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace rmpi {

/// Registers it under torch's own Work. Without, pybind11 looks for the class of each Work in all its tables before it
/// takes that of the base.
void register_work(pybind11::module_& m);

}  // namespace rmpi
