#include "store_exchange.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/irange.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "interrupt.hpp"

namespace rmpi {
namespace {

constexpr std::chrono::milliseconds kShortestPause{1};
constexpr std::chrono::milliseconds kLongestPause{50};
/// So many names of missing ranks make a message; the rest is counted.
constexpr std::size_t kNamedRanks = 16;

std::string missing_ranks(c10d::Store& store, const std::vector<std::string>& keys) {
  std::string names;
  std::size_t missing = 0;
  for (const auto rank : c10::irange(keys.size())) {
    if (store.check({keys[rank]})) continue;
    if (++missing <= kNamedRanks) names += (names.empty() ? "" : ", ") + std::to_string(rank);
  }
  if (missing > kNamedRanks) names += " and " + std::to_string(missing - kNamedRanks) + " more";
  return names;
}

/// Sets this rank's key to `value`; returns those of all ranks.
///
/// A store may outlive a group and see the same name again (destroy, then init): each rank counts its own visits, so
/// that nobody takes what belongs to an earlier group for this one's.
std::vector<std::string> publish(c10d::Store& store, const std::string& topic, const std::string& value, int rank,
                                 int size) {
  const auto prefix = "rmpi/" + topic + "/";
  const auto visit = std::to_string(store.add(prefix + "visit/" + std::to_string(rank), 1));
  std::vector<std::string> keys;
  keys.reserve(size);
  for (const auto peer : c10::irange(size)) keys.push_back(prefix + visit + "/" + std::to_string(peer));
  store.set(keys[rank], value);
  return keys;
}

void await_all(c10d::Store& store, const std::vector<std::string>& keys, int rank, std::chrono::milliseconds timeout,
               const std::string& group_name) {
  auto pause = kShortestPause;
  const bool complete = wait_in_slices(timeout, [&](std::uint64_t slice) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(slice);
    while (!store.check(keys)) {
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kLongestPause);
    }
    return true;
  });
  if (complete) return;
  const auto missing = missing_ranks(store, keys);
  if (missing.empty()) return;
  C10_THROW_ERROR(
      DistBackendError,
      c10::str("rmpi: creating group \"", group_name, "\" of ", keys.size(), " ranks: rank ", rank, " waited ",
               timeout.count(), " ms and ran into the timeout because these ranks have not come: ", missing,
               ". Every member must create the group; if one is just slow, give a longer "
               "timeout to init_process_group or new_group."));
}

}  // namespace

void meet(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout,
          const std::string& group_name) {
  const auto keys = publish(*store, "presence", "here", rank, size);
  if (!bridge::mpi_started()) await_all(*store, keys, rank, timeout, group_name);
}

rust::Vec<rust::String> exchange_addresses(c10d::Store& store, const std::string& address, int rank, int size,
                                           std::chrono::milliseconds timeout, const std::string& group_name) {
  const auto keys = publish(store, "address", address, rank, size);
  await_all(store, keys, rank, timeout, group_name);

  rust::Vec<rust::String> addresses;
  addresses.reserve(size);
  for (const auto& key : keys) {
    const auto value = store.get(key);
    addresses.push_back(rust::String(reinterpret_cast<const char*>(value.data()), value.size()));
  }
  return addresses;
}

}  // namespace rmpi
