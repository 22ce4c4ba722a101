// Estimates of how long operations take.
#include <chrono>
#include <future>
#include <thread>
#include <utility>

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
  // Measuring blocks. A thread of its own does it, with a share of the group, so that this one can be interrupted; it
  // then goes on to the end, as the other ranks do.
  std::packaged_task<void()> task([group = core().group->share()] { call_core([&] { group->prepare_estimates(); }); });
  auto prepared = task.get_future();
  std::thread(std::move(task)).detach();
  wait_in_slices(std::nullopt, [&](std::uint64_t slice) {
    return prepared.wait_for(std::chrono::milliseconds(slice)) == std::future_status::ready;
  });
  try {
    prepared.get();
  } catch (const c10::DistBackendError&) {
    observers_->failed(observers_->generation());
    throw;
  }
}

float ProcessGroupRMPI::endTimeEstimate() { return static_cast<float>(core().end_estimate()); }

}  // namespace rmpi
