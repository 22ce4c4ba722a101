#include "interrupt.hpp"

#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include <torch_rmpi/process_group_rmpi.hpp>

namespace rmpi {
namespace {

using Hook = std::function<void()>;

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
