// Running code that users gave: callbacks and hooks.
#pragma once

#include <cxxabi.h>
#include <unistd.h>

#include <exception>
#include <string>

#include <c10/util/Logging.h>

namespace rmpi {

/// Runs `function`. What it throws is logged, with what `describe` says of it, as nobody is left to tell.
template <class Function, class Describe>
void run_foreign(Function&& function, Describe&& describe) noexcept {
  try {
    function();
  } catch (abi::__forced_unwind&) {
    // An interpreter that has ended does this to a thread that comes back to it. It may neither go on nor end.
    while (true) pause();
  } catch (const std::exception& error) {
    LOG(ERROR) << "rmpi: " << describe() << " failed: " << error.what();
  } catch (...) {
    LOG(ERROR) << "rmpi: " << describe() << " failed with an exception of an unknown class";
  }
}

}  // namespace rmpi
