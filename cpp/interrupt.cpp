#include "interrupt.hpp"

#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <torch_rmpi/process_group_rmpi.hpp>

namespace rmpi {
namespace {

using Hook = std::function<void()>;

// Written once, before the flag.
std::thread::id returning_thread;
std::atomic<bool> others_stay{false};

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

void keep_other_threads_waiting() {
  returning_thread = std::this_thread::get_id();
  others_stay.store(true, std::memory_order_release);
}

void return_or_stay() {
  if (!others_stay.load(std::memory_order_acquire) || std::this_thread::get_id() == returning_thread) return;
  while (true) pause();
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
