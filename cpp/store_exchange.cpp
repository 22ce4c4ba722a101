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

/// Where the ranks of a group meet in the store.
struct Place {
  /// Of each rank, set when it has come.
  std::vector<std::string> keys;
  /// Set once: whether the meeting takes place.
  std::string decision;
};

constexpr const char* kTakesPlace = "all have come";

std::string prefix_of(const std::string& topic) { return "rmpi/" + topic + "/"; }

std::string key_of(const std::string& topic, std::int64_t visit, int rank) {
  return prefix_of(topic) + std::to_string(visit) + "/" + std::to_string(rank);
}

std::string decision_of(const std::string& topic, std::int64_t visit) {
  return prefix_of(topic) + std::to_string(visit) + "/decision";
}

/// How often this rank has come, after `more` more times.
///
/// A store may outlive a group and see the same name again (destroy, then init): each rank counts its own visits, so
/// that nobody takes what belongs to an earlier group for this one's.
std::int64_t visits(c10d::Store& store, const std::string& topic, int rank, std::int64_t more) {
  return store.add(prefix_of(topic) + "visit/" + std::to_string(rank), more);
}

/// Sets this rank's key to `value`.
Place publish(c10d::Store& store, const std::string& topic, const std::string& value, int rank, int size) {
  const auto visit = visits(store, topic, rank, 1);
  Place place;
  place.keys.reserve(size);
  for (const auto peer : c10::irange(size)) place.keys.push_back(key_of(topic, visit, peer));
  place.decision = decision_of(topic, visit);
  store.set(place.keys[rank], value);
  return place;
}

/// Decides a meeting, unless somebody has; returns the decision.
std::string decide(c10d::Store& store, const Place& place, const std::string& decision) {
  const std::vector<std::uint8_t> wanted(decision.begin(), decision.end());
  const auto decided = store.compareSet(place.decision, {}, wanted);
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
void await_all(c10d::Store& store, const Place& place, int rank, std::chrono::milliseconds timeout,
               const std::string& group_name) {
  const auto given_up = "rank " + std::to_string(rank) + " had given up";
  bool complete = false;
  try {
    complete = wait_for_all(store, place.keys, timeout);
  } catch (...) {
    // Of two errors the first counts: this one says why the store was left.
    try {
      decide(store, place, given_up);
    } catch (const std::exception& error) {
      LOG(WARNING) << "rmpi: the store could not be told that rank " << rank << " has given up: " << error.what();
    }
    throw;
  }
  // Before anybody is told that the meeting is off: others may still come.
  const auto missing = complete ? std::string() : missing_ranks(store, place.keys);
  const auto decision = decide(store, place, complete || missing.empty() ? kTakesPlace : given_up);
  if (decision == kTakesPlace) return;
  const auto creating =
      c10::str("rmpi: creating group \"", group_name, "\" of ", place.keys.size(), " ranks: rank ", rank);
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

void meet(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout,
          const std::string& group_name) {
  const auto place = publish(*store, kPresence, "here", rank, size);
  if (!bridge::mpi_started()) await_all(*store, place, rank, timeout, group_name);
}

rust::Vec<rust::String> exchange_addresses(c10d::Store& store, const std::string& address, int rank, int size,
                                           std::chrono::milliseconds timeout, const std::string& group_name) {
  const auto place = publish(store, kAddress, address, rank, size);
  await_all(store, place, rank, timeout, group_name);

  rust::Vec<rust::String> addresses;
  addresses.reserve(size);
  for (const auto& key : place.keys) {
    const auto value = store.get(key);
    addresses.push_back(rust::String(reinterpret_cast<const char*>(value.data()), value.size()));
  }
  return addresses;
}

void forget_meetings(c10d::Store& store, const std::string& topic, int rank) {
  try {
    // Earlier ones too: who has come to the last meeting has left those before it.
    for (auto visit = visits(store, topic, rank, 0); visit > 0 && store.deleteKey(key_of(topic, visit, rank));
         --visit) {
      if (rank == 0) store.deleteKey(decision_of(topic, visit));
    }
  } catch (const std::exception& error) {
    // The meeting has been a success. Some stores cannot delete.
    LOG(INFO) << "rmpi: keys of a meeting stay in the store: " << error.what();
  }
}

}  // namespace rmpi
