// Waiting that can be interrupted: nothing in the shim blocks for longer than one slice without asking the interrupt
// hook (rmpi::set_interrupt_hook), which the Python extension points at Python's signal handling.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace rmpi {

/// The longest time between two calls of the hook.
inline constexpr std::chrono::milliseconds kWaitSlice{100};

/// Calls the interrupt hook, if there is one. Whatever it throws passes through.
void check_interrupt();

/// Calls `attempt(milliseconds)` with slices of at most kWaitSlice until it returns true or `limit` has passed, and the
/// interrupt hook in between. `attempt` blocks for at most the time it is given. False: the limit has passed.
template <class Attempt>
bool wait_in_slices(std::optional<std::chrono::milliseconds> limit, Attempt&& attempt) {
  using Clock = std::chrono::steady_clock;
  if (!limit) {
    while (!attempt(static_cast<std::uint64_t>(kWaitSlice.count()))) check_interrupt();
    return true;
  }
  const auto deadline = Clock::now() + *limit;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    const auto slice = std::clamp(left, std::chrono::milliseconds(0), kWaitSlice);
    if (attempt(static_cast<std::uint64_t>(slice.count()))) return true;
    check_interrupt();
    if (Clock::now() >= deadline) return false;
  }
}

}  // namespace rmpi
