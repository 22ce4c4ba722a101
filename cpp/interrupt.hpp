// Waiting that can be interrupted: nothing in the shim blocks for longer than one slice without asking the interrupt
// hook (rmpi::set_interrupt_hook), which the Python extension points at Python's signal handling.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <thread>
#include <utility>

namespace rmpi {

/// The longest time between two calls of the hook.
inline constexpr std::chrono::milliseconds kWaitSlice{100};

/// Calls the interrupt hook, if there is one. Whatever it throws passes through.
void check_interrupt();

/// From now on no thread but this one returns from a wait: each would go back to an interpreter that is ending, which
/// ends such threads in the middle of C++ code.
void keep_other_threads_waiting();

/// Until threads that returned before that have most likely arrived in the interpreter: for a moment if one has just
/// returned, else not at all.
void let_returned_threads_arrive();

/// Whether keep_other_threads_waiting() has been called: nothing that may belong to the interpreter runs any more.
bool is_interpreter_ending();

/// Does nothing on a thread that may go back to whoever called; on others it never returns.
void stay_if_ending();

/// As stay_if_ending(), on the way back to whoever called.
void return_or_stay();

/// Calls `attempt(milliseconds)` with slices of at most kWaitSlice until it returns true or `limit` has passed, and the
/// interrupt hook in between. `attempt` blocks for at most the time it is given. False: the limit has passed.
template <class Attempt>
bool wait_in_slices(std::optional<std::chrono::milliseconds> limit, Attempt&& attempt) {
  using Clock = std::chrono::steady_clock;
  if (!limit) {
    while (!attempt(static_cast<std::uint64_t>(kWaitSlice.count()))) {
      stay_if_ending();
      check_interrupt();
    }
    return_or_stay();
    return true;
  }
  const auto deadline = Clock::now() + *limit;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    const auto slice = std::clamp(left, std::chrono::milliseconds(0), kWaitSlice);
    const bool done = attempt(static_cast<std::uint64_t>(slice.count()));
    if (done || Clock::now() >= deadline) {
      return_or_stay();
      if (!done) check_interrupt();
      return done;
    }
    stay_if_ending();
    check_interrupt();
  }
}

/// What `function`, which may block, returns. A thread of its own runs it, so that this one can be interrupted; it then
/// goes on to its end, so it owns what it needs.
template <class Function>
auto call_interruptibly(Function&& function) {
  using Result = decltype(function());
  std::packaged_task<Result()> task(std::forward<Function>(function));
  auto result = task.get_future();
  std::thread(std::move(task)).detach();
  wait_in_slices(std::nullopt, [&](std::uint64_t slice) {
    return result.wait_for(std::chrono::milliseconds(slice)) == std::future_status::ready;
  });
  return result.get();
}

}  // namespace rmpi
