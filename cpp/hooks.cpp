// Hooks, timing and the extension of timeouts: what users attach to a group.
#include <memory>
#include <utility>

#include "core.hpp"
#include "interrupt.hpp"

namespace rmpi {

void ProcessGroupRMPI::addEphemeralTimeout(const std::chrono::milliseconds& extension) {
  TORCH_CHECK_VALUE(extension.count() >= 0, "rmpi: addEphemeralTimeout: an extension by ", extension.count(),
                    " ms is negative.");
  ephemeral_timeout_->add(extension);
}

bool ProcessGroupRMPI::supportsAbortHooks() const { return true; }

void ProcessGroupRMPI::registerAbortHook(std::int64_t hook_id, std::function<void()> hook) {
  TORCH_CHECK_VALUE(hook, "rmpi: registerAbortHook: the hook is empty.");
  observers_->add_abort_hook(hook_id, std::move(hook));
}

void ProcessGroupRMPI::unregisterAbortHook(std::int64_t hook_id) { observers_->remove_abort_hook(hook_id); }

#if TORCH_RMPI_HAS_COMPLETION_HOOKS
bool ProcessGroupRMPI::supportsCompletionHooks() const { return true; }

void ProcessGroupRMPI::registerCompletionHook(std::int64_t hook_id, c10d::CompletionHook hook) {
  TORCH_CHECK_VALUE(hook, "rmpi: registerCompletionHook: the hook is empty.");
  observers_->add_completion_hook(
      hook_id,
      [hook = std::move(hook)](std::uint64_t key, std::optional<float> milliseconds) { hook({key, milliseconds}); });
}

void ProcessGroupRMPI::unregisterCompletionHook(std::int64_t hook_id) { observers_->remove_completion_hook(hook_id); }
#endif

void ProcessGroupRMPI::registerOnCompletionHook(std::function<void(std::shared_ptr<c10d::WorkInfo>)>&& hook) {
  TORCH_CHECK_VALUE(hook, "rmpi: registerOnCompletionHook: the hook is empty.");
  TORCH_CHECK_VALUE(!onCompletionHook_, "rmpi: registerOnCompletionHook: the group has an on-completion hook already.");
  // Never copied: copying a hook may need a lock of its language.
  const auto shared = std::make_shared<const std::function<void(std::shared_ptr<c10d::WorkInfo>)>>(std::move(hook));
  onCompletionHook_ = [shared](std::shared_ptr<c10d::WorkInfo> info) { (*shared)(std::move(info)); };
  observers_->enable_timing();
  observers_->set_report(onCompletionHook_);
}

void ProcessGroupRMPI::waitForPendingWorks() {
  if (core_) {
    core_->owner.check("waitForPendingWorks");
    // Operations of a failed group have ended all, though MPI may hold their memory for as long as it likes.
    wait_in_slices(std::nullopt, [this](std::uint64_t slice) {
      return core_->group->quiesce(slice) || core_->group->error_kind() != bridge::ErrorKind::None;
    });
  }
  wait_in_slices(std::nullopt,
                 [this](std::uint64_t slice) { return observers_->await_reports(std::chrono::milliseconds(slice)); });
}

void ProcessGroupRMPI::enableCollectivesTiming() { observers_->enable_timing(); }

}  // namespace rmpi
