// How the members of a new group learn each other's addresses.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

/// A meeting in a store, as this rank sees it.
struct Meeting {
  std::string topic;
  int rank;
  int size;
  /// How often this rank has come to one on the topic.
  std::int64_t visit;

  std::string key_of(int peer) const;
  std::string decision() const;
};

/// As `meet`.
Meeting await_presence(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout,
                       const std::string& group_name);

struct Addresses {
  Meeting meeting;
  /// In rank order.
  rust::Vec<rust::String> of_ranks;
};

/// Publishes this rank's `address` in the store and returns those of all ranks. Polls, so that neither a late peer nor
/// the store's own timeout decides how long it takes: DistBackendError after `timeout`, naming the ranks that are
/// missing. May be called again on the same store, by all ranks alike.
Addresses exchange_addresses(c10d::Store& store, const std::string& address, int rank, int size,
                             std::chrono::milliseconds timeout, const std::string& group_name);

/// Has rank 0 remove what a meeting and earlier ones on its topic have left in the store, when all ranks are known to
/// be done with it: a process that makes many groups may do so for long. How often each rank has come, stays.
void forget(c10d::Store& store, Meeting meeting);

}  // namespace rmpi
