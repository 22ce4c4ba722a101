// How the members of a new group learn each other's addresses.
#pragma once

#include <chrono>
#include <string>

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

/// Publishes this rank's `address` in the store and returns those of all ranks, in rank order. Polls, so that neither a
/// late peer nor the store's own timeout decides how long it takes: DistBackendError after `timeout`, naming the ranks
/// that are missing. May be called again on the same store, by all ranks alike.
rust::Vec<rust::String> exchange_addresses(c10d::Store& store, const std::string& address, int rank, int size,
                                           std::chrono::milliseconds timeout, const std::string& group_name);

/// Removes what this rank has left in the store for meetings on `topic`, which all ranks must be known to be done with.
/// Only their number stays: a process that makes many groups may do so for long.
void forget_meetings(c10d::Store& store, const std::string& topic, int rank);

/// The topics: of `meet`, and of `exchange_addresses`.
inline constexpr const char* kPresence = "presence";
inline constexpr const char* kAddress = "address";

}  // namespace rmpi
