// The process-wide functions of process_group_rmpi.hpp.
#include <chrono>
#include <cstdint>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "aside.hpp"
#include "errors.hpp"
#include "interrupt.hpp"

namespace rmpi {

void start(std::optional<std::chrono::milliseconds> timeout) {
  // MPI_Init may wait for every process of the job, and nothing ends it. A thread of its own makes the call, so that
  // this one can be interrupted; whoever comes again waits for the same call.
  static std::mutex mutex;
  static std::shared_future<void> started;
  std::shared_future<void> mine;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!started.valid()) {
      std::packaged_task<void()> task([] { call_core([] { bridge::start(); }); });
      auto future = task.get_future().share();
      std::thread(std::move(task)).detach();
      started = std::move(future);
    }
    mine = started;
  }
  if (!wait_in_slices(timeout, [&](std::uint64_t slice) {
        return mine.wait_for(std::chrono::milliseconds(slice)) == std::future_status::ready;
      })) {
    C10_THROW_ERROR(DistBackendError,
                    c10::str("rmpi: MPI_Init has waited ", timeout->count(),
                             " ms for the other processes of this MPI job and ran into the timeout. Every process that "
                             "the launcher has started must create a process group, or start MPI in another way."));
  }
  mine.get();
}

int world_rank() {
  start(std::nullopt);
  return call_core([] { return bridge::world_rank(); });
}

int world_size() {
  start(std::nullopt);
  return call_core([] { return bridge::world_size(); });
}

std::string world_broadcast(const std::string& payload, std::chrono::milliseconds timeout) {
  const auto begun = std::chrono::steady_clock::now();
  start(timeout);
  timeout -= std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
  return call_interruptibly([payload, timeout] {
    return call_core([&] { return std::string(bridge::world_broadcast(payload, timeout.count())); });
  });
}

bool drain(std::chrono::milliseconds limit) {
  return wait_in_slices(limit, [](std::uint64_t slice) { return bridge::drain(slice); });
}

void before_interpreter_ends() {
  bridge::before_interpreter_ends();
  keep_other_threads_waiting();
  let_returned_threads_arrive();
}

bool await_callbacks(std::optional<std::chrono::milliseconds> limit) {
  const auto begun = std::chrono::steady_clock::now();
  if (!wait_in_slices(limit, [](std::uint64_t slice) { return bridge::await_users(slice); })) return false;
  if (limit) *limit -= std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - begun);
  return await_asides(limit);
}

bool await_abort_hooks(std::optional<std::chrono::milliseconds> limit) { return await_asides(limit); }

std::string mpi_library_version() { return std::string(bridge::mpi_library()); }

std::string version() { return std::string(bridge::version()); }

}  // namespace rmpi
