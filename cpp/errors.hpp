// Errors of the Rust core as the exceptions that PyTorch users expect. The only place that knows how they cross the
// bridge: a bridge function that fails throws rust::Error with the text "<ErrorKind as a decimal number>|<message>".
#pragma once

#include <exception>
#include <string>
#include <utility>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

/// The exception of a kind: c10::ValueError, TypeError, NotImplementedError or DistBackendError.
[[noreturn]] void throw_error(bridge::ErrorKind kind, const std::string& message);

/// The same as an object, to be thrown later.
std::exception_ptr make_error(bridge::ErrorKind kind, const std::string& message);

/// Throws the exception that a rust::Error stands for.
[[noreturn]] void throw_core_error(const rust::Error& error);

/// Calls into the core with its errors translated.
template <class Function>
decltype(auto) call_core(Function&& function) {
  try {
    return std::forward<Function>(function)();
  } catch (const rust::Error& error) {
    throw_core_error(error);
  }
}

}  // namespace rmpi
