// Estimates of how long operations take.

#include "core.hpp"
#include "errors.hpp"
#include "interrupt.hpp"

namespace rmpi {

bool ProcessGroupRMPI::supportsTimeEstimation() const { return true; }

void ProcessGroupRMPI::startTimeEstimate() {
  core().owner.check("startTimeEstimate");
  if (!core().group->has_estimates()) prepare_estimates();
  core().start_estimate();
}

void ProcessGroupRMPI::prepare_estimates() {
  try {
    call_interruptibly([group = core().group->share()] { call_core([&] { group->prepare_estimates(); }); });
  } catch (const c10::DistBackendError&) {
    observers_->failed(observers_->generation());
    throw;
  }
}

float ProcessGroupRMPI::endTimeEstimate() { return static_cast<float>(core().end_estimate()); }

}  // namespace rmpi
