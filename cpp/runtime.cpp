// The process-wide functions of process_group_rmpi.hpp.
#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "errors.hpp"
#include "interrupt.hpp"

namespace rmpi {

int world_rank() {
  return call_core([] { return bridge::world_rank(); });
}

int world_size() {
  return call_core([] { return bridge::world_size(); });
}

std::string world_broadcast(const std::string& payload, std::chrono::milliseconds timeout) {
  // The thread that asks is the one that starts MPI.
  world_rank();
  // The core's call blocks until its deadline. A thread of its own makes it, so that this one can be interrupted; the
  // thread then ends by itself.
  std::packaged_task<std::string()> task([payload, timeout] {
    return call_core([&] { return std::string(bridge::world_broadcast(payload, timeout.count())); });
  });
  auto received = task.get_future();
  std::thread(std::move(task)).detach();
  wait_in_slices(std::nullopt, [&](std::uint64_t slice) {
    return received.wait_for(std::chrono::milliseconds(slice)) == std::future_status::ready;
  });
  return received.get();
}

void before_interpreter_ends(bool drain) { bridge::before_interpreter_ends(drain); }

std::string mpi_library_version() { return std::string(bridge::mpi_library()); }

std::string version() { return std::string(bridge::version()); }

}  // namespace rmpi
