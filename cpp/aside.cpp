#include "aside.hpp"

#include <condition_variable>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include <torch_rmpi/process_group_rmpi.hpp>

#include "fork_guard.hpp"
#include "interrupt.hpp"

namespace rmpi {
namespace {

using Clock = std::chrono::steady_clock;

thread_local bool runs_aside = false;

}  // namespace

struct Aside::Process {
  const ForkGuard owner;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t running = 0;
  // When the first of those that run began.
  Clock::time_point since;

  bool await_none(std::chrono::milliseconds limit) {
    // In a forked child nothing runs, whatever had run at the fork.
    if (!owner.in_owner()) return true;
    std::unique_lock<std::mutex> lock(mutex);
    return changed.wait_for(lock, limit, [this] { return running == 0; });
  }
};

// Never destroyed: threads may still run while the process exits.
Aside::Process& Aside::process() {
  static auto* process = [] {
    // A program may return from main() as soon as it knows of a failure. Interpreters wait before they end.
    std::atexit([] {
      if (!is_interpreter_ending()) Aside::process().await_none(kAbortHookGrace);
    });
    return new Process;
  }();
  return *process;
}

Aside::Aside(std::function<void()> function) : function_(std::move(function)) {}

std::shared_ptr<Aside> Aside::make(std::function<void()> function) {
  return std::shared_ptr<Aside>(new Aside(std::move(function)));
}

void Aside::start(const std::shared_ptr<Aside>& aside) {
  {
    const std::lock_guard<std::mutex> lock(process().mutex);
    if (process().running++ == 0) process().since = Clock::now();
  }
  try {
    std::thread([aside] { aside->run(); }).detach();
  } catch (const std::system_error&) {
    aside->run();
  }
}

void Aside::run() {
  const bool outer = std::exchange(runs_aside, true);
  function_();
  // What it holds may belong to an interpreter, which does not end before this counts as run.
  function_ = nullptr;
  runs_aside = outer;
  {
    const std::lock_guard<std::mutex> lock(process().mutex);
    has_run_ = true;
    --process().running;
  }
  process().changed.notify_all();
}

void Aside::wait() const {
  if (runs_aside) return;
  std::unique_lock<std::mutex> lock(process().mutex);
  process().changed.wait_until(lock, process().since + kPatience, [this] { return has_run_; });
}

bool await_asides(std::optional<std::chrono::milliseconds> limit) {
  return wait_in_slices(
      limit, [](std::uint64_t slice) { return Aside::process().await_none(std::chrono::milliseconds(slice)); });
}

}  // namespace rmpi
