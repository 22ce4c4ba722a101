// The process-wide functions of process_group_rmpi.hpp.
#include <chrono>
#include <string>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "errors.hpp"

namespace rmpi {

int world_rank() {
  return call_core([] { return bridge::world_rank(); });
}

int world_size() {
  return call_core([] { return bridge::world_size(); });
}

std::string world_broadcast(const std::string& payload, std::chrono::milliseconds timeout) {
  return call_core([&] { return std::string(bridge::world_broadcast(payload, timeout.count())); });
}

void before_interpreter_ends(bool drain) { bridge::before_interpreter_ends(drain); }

std::string mpi_library_version() { return std::string(bridge::mpi_library()); }

std::string version() { return std::string(bridge::version()); }

}  // namespace rmpi
