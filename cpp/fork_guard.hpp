// MPI does not survive a fork: a forked child (a data-loader worker, say) inherits the objects of its parent but may
// neither use nor destroy what is behind them.
#pragma once

#include <unistd.h>

#include <cstdint>

#include <c10/util/Exception.h>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

/// A number that a child that is forked from now on does not have.
inline std::uint32_t process_generation() noexcept {
  static const auto* const address = bridge::process_generation_address();
  return address != nullptr ? __atomic_load_n(address, __ATOMIC_RELAXED) : bridge::process_generation();
}

/// Remembers the process that made an object.
class ForkGuard {
 public:
  /// Whether this is still the process that made the object.
  bool in_owner() const noexcept { return process_generation() == owner_; }

  /// Throws DistBackendError in a forked child.
  void check(const char* operation) const {
    if (C10_UNLIKELY(!in_owner())) {
      C10_THROW_ERROR(NotImplementedError, c10::str("rmpi: ", operation, " called in process ", getpid(),
                                                    ", which was forked from the one that created the process group. "
                                                    "MPI cannot be used after a fork: call it in "
                                                    "the parent, or start the workers with the \"spawn\" method."));
    }
  }

 private:
  std::uint32_t owner_ = process_generation();
};

}  // namespace rmpi
