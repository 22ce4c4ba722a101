#include "interrupt.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <torch_rmpi/process_group_rmpi.hpp>

namespace rmpi {
namespace {

using Hook = std::function<void()>;

using Clock = std::chrono::steady_clock;

/// A thread that has left the last wait gets the interpreter's lock within this time, if it gets a core at all.
constexpr std::chrono::milliseconds kArrival{100};

std::atomic<bool> others_stay{false};
/// The interpreter's main thread, which ends it; 0 where there is none.
std::atomic<pthread_t> main_thread{0};
/// When a thread other than that one last returned.
std::atomic<Clock::rep> last_return{0};

struct HookSlot {
  std::mutex mutex;
  std::shared_ptr<const Hook> hook;
};

// Never destroyed: threads may still wait while the process exits.
HookSlot& hook_slot() {
  static auto* slot = new HookSlot;
  return *slot;
}

}  // namespace

void set_main_thread(unsigned long thread) { main_thread.store(thread, std::memory_order_relaxed); }

void keep_other_threads_waiting() {
  main_thread.store(pthread_self(), std::memory_order_relaxed);
  // Sequentially consistent, as in return_or_stay(): a thread that does not see it has been counted before.
  others_stay.store(true);
}

void let_returned_threads_arrive() {
  const auto last = Clock::time_point(Clock::duration(last_return.load()));
  std::this_thread::sleep_until(last + kArrival);
}

bool is_interpreter_ending() { return others_stay.load(); }

void stay_if_ending() {
  if (!is_interpreter_ending() || pthread_self() == main_thread.load(std::memory_order_relaxed)) return;
  while (true) pause();
}

void return_or_stay() {
  const auto main = main_thread.load(std::memory_order_relaxed);
  if (main == 0 || main == pthread_self()) return;
  last_return.store(Clock::now().time_since_epoch().count());
  stay_if_ending();
}

void set_interrupt_hook(std::function<void()> hook) {
  auto next = hook ? std::make_shared<const Hook>(std::move(hook)) : nullptr;
  auto& slot = hook_slot();
  {
    const std::lock_guard<std::mutex> lock(slot.mutex);
    slot.hook.swap(next);
  }
  // The previous hook dies here, outside the lock: its destructor may run foreign code.
}

void check_interrupt() {
  std::shared_ptr<const Hook> hook;
  {
    auto& slot = hook_slot();
    const std::lock_guard<std::mutex> lock(slot.mutex);
    hook = slot.hook;
  }
  if (hook) (*hook)();
}

}  // namespace rmpi
