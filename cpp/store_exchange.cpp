#include "store_exchange.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
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

constexpr const char* kTakesPlace = "all have come";

std::string prefix_of(const std::string& topic) { return "rmpi/" + topic + "/"; }

/// Sets this rank's key to `value`.
///
/// A store may outlive a group and see the same name again (destroy, then init): each rank counts its own visits, so
/// that nobody takes what belongs to an earlier group for this one's.
Meeting publish(c10d::Store& store, const std::string& topic, const std::string& value, int rank, int size) {
  const auto visit = store.add(prefix_of(topic) + "visit/" + std::to_string(rank), 1);
  Meeting meeting{topic, rank, size, visit};
  store.set(meeting.key_of(rank), value);
  return meeting;
}

std::vector<std::string> keys_of(const Meeting& meeting) {
  std::vector<std::string> keys;
  keys.reserve(meeting.size);
  for (const auto peer : c10::irange(meeting.size)) keys.push_back(meeting.key_of(peer));
  return keys;
}

/// Decides a meeting, unless somebody has; returns the decision.
std::string decide(c10d::Store& store, const Meeting& meeting, const std::string& decision) {
  const std::vector<std::uint8_t> wanted(decision.begin(), decision.end());
  const auto decided = store.compareSet(meeting.decision(), {}, wanted);
  return {decided.begin(), decided.end()};
}

bool wait_for_all(c10d::Store& store, const std::vector<std::string>& keys, std::chrono::milliseconds timeout) {
  auto pause = kShortestPause;
  return wait_in_slices(timeout, [&](std::uint64_t slice) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(slice);
    while (!store.check(keys)) {
      if (std::chrono::steady_clock::now() >= end) return false;
      std::this_thread::sleep_for(pause);
      pause = std::min(pause * 2, kLongestPause);
    }
    return true;
  });
}

/// Returns when all ranks have come. What comes next blocks until every rank does it, so it must not be done by a rank
/// that comes after another one has given up: either all go on, or all throw.
void await_all(c10d::Store& store, const Meeting& meeting, std::chrono::milliseconds timeout,
               const std::string& group_name) {
  const auto keys = keys_of(meeting);
  const auto given_up = "rank " + std::to_string(meeting.rank) + " had given up";
  bool complete = false;
  try {
    complete = wait_for_all(store, keys, timeout);
  } catch (...) {
    // Of two errors the first counts: this one says why the store was left.
    try {
      decide(store, meeting, given_up);
    } catch (const std::exception& error) {
      LOG(WARNING) << "rmpi: the store could not be told that rank " << meeting.rank
                   << " has given up: " << error.what();
    }
    throw;
  }
  // Before anybody is told that the meeting is off: others may still come.
  const auto missing = complete ? std::string() : missing_ranks(store, keys);
  const auto decision = decide(store, meeting, complete || missing.empty() ? kTakesPlace : given_up);
  if (decision == kTakesPlace) return;
  const auto creating =
      c10::str("rmpi: creating group \"", group_name, "\" of ", meeting.size, " ranks: rank ", meeting.rank);
  if (missing.empty()) {
    C10_THROW_ERROR(
        DistBackendError,
        c10::str(creating, " came too late: ", decision,
                 ". Every member has to create the group again; give a longer timeout to init_process_group or "
                 "new_group if this rank is just slow."));
  }
  C10_THROW_ERROR(DistBackendError,
                  c10::str(creating, " waited ", timeout.count(),
                           " ms and ran into the timeout because these ranks have not come: ", missing,
                           ". Every member must create the group; if one is just slow, give a longer "
                           "timeout to init_process_group or new_group."));
}

}  // namespace

std::string Meeting::key_of(int peer) const {
  return prefix_of(topic) + std::to_string(visit) + "/" + std::to_string(peer);
}

std::string Meeting::decision() const { return prefix_of(topic) + std::to_string(visit) + "/decision"; }

Meeting await_presence(c10d::Store& store, int rank, int size, std::chrono::milliseconds timeout,
                       const std::string& group_name) {
  auto meeting = publish(store, "presence", "here", rank, size);
  if (!bridge::mpi_started()) await_all(store, meeting, timeout, group_name);
  return meeting;
}

void meet(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout,
          const std::string& group_name) {
  await_presence(*store, rank, size, timeout, group_name);
}

Addresses exchange_addresses(c10d::Store& store, const std::string& address, int rank, int size,
                             std::chrono::milliseconds timeout, const std::string& group_name) {
  Addresses addresses{publish(store, "address", address, rank, size), {}};
  await_all(store, addresses.meeting, timeout, group_name);
  addresses.of_ranks.reserve(size);
  for (const auto& key : keys_of(addresses.meeting)) {
    const auto value = store.get(key);
    addresses.of_ranks.push_back(rust::String(reinterpret_cast<const char*>(value.data()), value.size()));
  }
  return addresses;
}

void forget(c10d::Store& store, Meeting meeting) {
  if (meeting.rank != 0) return;
  try {
    // Who has come to the last meeting, has left those before it. Not every store says whether there was what it
    // deletes.
    for (; meeting.visit > 0 && store.check({meeting.key_of(0)}); --meeting.visit) {
      store.deleteKey(meeting.decision());
      // The first key last: it tells that there is something to remove.
      for (int peer = meeting.size - 1; peer >= 0; --peer) store.deleteKey(meeting.key_of(peer));
    }
  } catch (const std::exception& error) {
    // The meeting has been a success. Some stores cannot delete.
    LOG(INFO) << "rmpi: keys of a meeting stay in the store: " << error.what();
  }
}

}  // namespace rmpi
