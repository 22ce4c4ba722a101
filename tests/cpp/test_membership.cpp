// Groups made of a group's members, and a group that changes its members.
#include <algorithm>
#include <fstream>
#include <numeric>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "harness.hpp"

using namespace test;

namespace {

using BackendPtr = c10::intrusive_ptr<c10d::Backend>;

std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// The sum over the group of a number that each rank gives.
float sum(const BackendPtr& group, float mine) {
  Tensors tensors{at::full({1}, mine)};
  group->allreduce(tensors)->wait();
  return tensors[0].item<float>();
}

/// How many segments this process has mapped.
int shared_mappings() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("memfd:torch-rmpi") != std::string::npos ? 1 : 0;
  return count;
}

c10::intrusive_ptr<Group::Options> named(const std::string& name) {
  auto options = Group::Options::create(std::chrono::seconds(60));
  options->group_name = name;
  return options;
}

/// What all ranks give, by rank, through a store.
std::vector<std::string> exchanged(const Context& context, c10d::Store& store, const std::string& topic,
                                   const std::string& own) {
  store.set(topic + std::to_string(context.rank()), own);
  std::vector<std::string> values;
  for (int rank = 0; rank < context.size(); ++rank) values.push_back(store.get_to_str(topic + std::to_string(rank)));
  return values;
}

}  // namespace

RMPI_TEST(membership, split_keeps_the_order_that_is_given) {
  const auto group = context.make_group();
  const auto store = context.make_store();
  CHECK_TRUE(group->supportsSplitting() && group->isInitialized());
  auto ranks = all_ranks(context.size());
  std::reverse(ranks.begin(), ranks.end());
  const auto part = group->split(store, ranks, named("reversed"));
  CHECK_TRUE(part->getRank() == context.size() - 1 - context.rank() && part->getSize() == context.size());
  // From the new rank 0, which is the last of the old.
  Tensors tensors{at::full({1}, static_cast<float>(context.rank()))};
  part->broadcast(tensors)->wait();
  CHECK_TRUE(tensors[0].item<int>() == context.size() - 1);
  // Both groups work, side by side.
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  part->shutdown();
  CHECK_TRUE(sum(group, 2) == 2.0F * static_cast<float>(context.size()));
  group->shutdown();
}

RMPI_TEST(membership, split_leaves_ranks_out) {
  const auto group = context.make_group();
  const auto store = context.make_store();
  const std::vector<int> ranks{0};
  const auto part = group->split(store, ranks, named("first"));
  CHECK_TRUE((part != nullptr) == (context.rank() == 0));
  if (part) {
    CHECK_TRUE(part->getSize() == 1 && sum(part, 3) == 3);
    part->shutdown();
  }
  CHECK_THROWS(c10::ValueError, "out of range", group->split(store, {0, context.size()}, named("beyond")));
  CHECK_THROWS(c10::ValueError, "twice", group->split(store, {0, 0}, named("twice")));
  group->shutdown();
}

RMPI_TEST(membership, a_part_takes_what_its_options_do_not_say_from_the_whole) {
  auto options = named("whole");
  options->chunk_bytes = 8192;
  options->global_ranks_in_group = {10, 11, 12};
  options->global_ranks_in_group.resize(context.size());
  const auto group = c10::make_intrusive<Group>(context.make_store(), context.rank(), context.size(), options);
  const auto plain = c10::make_intrusive<c10d::Backend::Options>("rmpi", std::chrono::seconds(7));
  plain->group_name = "part";
  const auto part = group->split(context.make_store(), all_ranks(context.size()), plain);
  const auto own = c10::dynamic_intrusive_pointer_cast<Group::Options>(part->getBackendOptions());
  CHECK_TRUE(own->chunk_bytes == 8192 && own->timeout == std::chrono::seconds(7) && own->group_name == "part");
  CHECK_TRUE(own->global_ranks_in_group == options->global_ranks_in_group);
  // Also those that options of its own class leave open.
  auto others = named("other part");
  others->spins = 7;
  const auto other = group->split(context.make_store(), all_ranks(context.size()), others);
  const auto merged = c10::dynamic_intrusive_pointer_cast<Group::Options>(other->getBackendOptions());
  CHECK_TRUE(merged->chunk_bytes == 8192 && merged->spins == 7 && !others->chunk_bytes);
  other->shutdown();
  // A copy: the whole has not changed.
  CHECK_TRUE(options->group_name == "whole" && options->timeout == std::chrono::seconds(60));
  part->shutdown();
  group->shutdown();
}

RMPI_TEST(membership, merge_of_groups) {
  // Every process starts alone.
  const auto alone = c10::make_intrusive<Group>(
      c10::make_intrusive<c10d::PrefixStore>(std::to_string(context.rank()), context.make_store()), 0, 1,
      named("alone" + std::to_string(context.rank())));
  // What each calls the new group is its own affair.
  const auto merged = alone->merge(context.make_store(), named("merged " + std::to_string(context.rank())),
                                   context.rank(), context.size());
  CHECK_TRUE(merged->getRank() == context.rank() && merged->getSize() == context.size());
  CHECK_TRUE(sum(merged, 1) == static_cast<float>(context.size()));
  CHECK_TRUE(sum(alone, 5) == 5);
  merged->shutdown();
  alone->shutdown();
}

RMPI_TEST(membership, shrink_leaves_out_the_last) {
  const auto group = context.make_group();
  const auto last = context.size() - 1;
  CHECK_TRUE(group->supportsShrinking());
  CHECK_THROWS(c10::ValueError, "out of range", group->shrink({context.size()}));
  CHECK_THROWS(c10::ValueError, "only the others", group->shrink({context.rank()}));
  CHECK_THROWS(c10::ValueError, "flags", group->shrink({}, 2));
  for (int round = 0; round < 2; ++round) {
    if (context.size() > 1 && context.rank() != last) {
      const auto rest = group->shrink({last});
      CHECK_TRUE(rest->getRank() == context.rank() && rest->getSize() == last);
      CHECK_TRUE(sum(rest, 1) == static_cast<float>(last));
      rest->shutdown();
    }
  }
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  group->shutdown();
}

RMPI_TEST(membership, shrink_may_abort_what_is_under_way) {
  const auto group = context.make_group();
  const auto last = context.size() - 1;
  if (context.size() > 1 && context.rank() != last) {
    Tensors tensors{at::ones({1})};
    const auto pending = group->recv(tensors, last, 1);
    const auto rest = group->shrink({last}, 1);
    // Aborted, unless the last has left the group before.
    CHECK_THROWS(c10::DistBackendError, "", pending->wait());
    CHECK_TRUE(sum(rest, 1) == static_cast<float>(last));
    rest->shutdown();
  }
}

RMPI_TEST(membership, suspend_and_resume) {
  const auto group = context.make_group();
  CHECK_THROWS(c10::ValueError, "not suspended", group->resume());
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  const auto before = group->getMemoryStats();
  CHECK_TRUE(before.at("shared_bytes") >= before.at("own_shared_bytes") && before.at("pending_operations") == 0);
  const auto mapped = shared_mappings();
  for (int round = 0; round < 3; ++round) {
    group->suspend();
    CHECK_TRUE(shared_mappings() < mapped || before.at("shared_bytes") == 0, shared_mappings(), " of ", mapped);
    CHECK_TRUE(group->getMemoryStats().at("shared_bytes") == 0);
    CHECK_TRUE(!group->isInitialized());
    Tensors tensors{at::ones({1})};
    CHECK_THROWS(c10::DistBackendError, "resume()", group->allreduce(tensors));
    CHECK_THROWS(c10::DistBackendError, "resume()", group->suspend());
    group->resume();
    CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
    CHECK_TRUE(group->getMemoryStats() == before && shared_mappings() == mapped);
  }
  group->shutdown();
}

RMPI_TEST(membership, resume_of_a_rank_that_comes_too_late) {
  if (context.size() == 1) return;
  const auto store = context.make_store();
  const auto group = context.make_group();
  group->suspend();
  if (context.rank() == 0) {
    group->setTimeout(milliseconds(200));
    CHECK_THROWS(c10::DistBackendError, "have not come: 1", group->resume());
    group->setTimeout(std::chrono::seconds(60));
  }
  exchanged(context, *store, "tried", "");
  // Rank 0 has given up, so the others must not wait for it where nothing ends a wait.
  if (context.rank() != 0) CHECK_THROWS(c10::DistBackendError, "rank 0 had given up", group->resume());
  group->resume();
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  group->shutdown();
}

RMPI_TEST(membership, suspend_waits_for_nobody) {
  const auto group = context.make_group();
  if (context.size() > 1) {
    Tensors tensors{at::ones({1})};
    if (context.rank() == 0) {
      const auto pending = group->recv(tensors, 1, 1);
      CHECK_TRUE(group->getMemoryStats().at("pending_operations") == 1);
      CHECK_THROWS(c10::ValueError, "under way", group->suspend());
      group->barrier()->wait();
      pending->wait();
    } else {
      group->barrier()->wait();
      if (context.rank() == 1) group->send(tensors, 0, 1)->wait();
    }
  }
  group->shutdown();
}

#if TORCH_RMPI_HAS_RECONFIGURE
namespace {

/// A group that has no members yet.
c10::intrusive_ptr<Group> unconnected(const Context& context, const c10::intrusive_ptr<c10d::Store>& store) {
  auto options = named("changing");
  options->enable_reconfigure = true;
  return c10::make_intrusive<Group>(store, context.rank(), context.size(), options);
}

}  // namespace

RMPI_TEST(membership, reconfigure) {
  const auto store = context.make_store();
  const auto group = unconnected(context, store);
  CHECK_TRUE(group->supportsReconfigure() && !group->isInitialized());
  Tensors tensors{at::ones({1})};
  CHECK_THROWS(c10::DistBackendError, "reconfigure()", group->allreduce(tensors));
  CHECK_TRUE(group->getError() == c10d::ErrorType::SUCCESS);

  auto handles = exchanged(context, *store, "handle", group->get_reconfigure_handle());
  c10d::ReconfigureOptions options;
  options.uuid = 1;
  options.handles = std::unordered_set<std::string>(handles.begin(), handles.end());
  const auto work = group->reconfigure(options);
  work->wait();
  CHECK_TRUE(work->isSuccess() && group->isInitialized());
  // A set: ranks follow those in MPI_COMM_WORLD.
  CHECK_TRUE(group->getRank() == context.rank() && group->getSize() == context.size());
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));

  // Other ranks, by position.
  std::reverse(handles.begin(), handles.end());
  options.uuid = 2;
  options.handles = handles;
  group->reconfigure(options)->wait();
  CHECK_TRUE(group->getRank() == context.size() - 1 - context.rank());
  CHECK_TRUE(group->getSequenceNumberForGroup() == 0);
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));

  // Fewer members; the last one stays behind, with the group as it was.
  const auto own = group->get_reconfigure_handle();
  if (own != handles.front()) {
    handles.erase(handles.begin());
    options.uuid = 3;
    options.handles = handles;
    group->reconfigure(options)->wait();
    CHECK_TRUE(group->getSize() == context.size() - 1);
    CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size() - 1));
  }
}

RMPI_TEST(membership, reconfigure_refuses_what_cannot_be) {
  const auto store = context.make_store();
  const auto group = unconnected(context, store);
  const auto own = group->get_reconfigure_handle();
  c10d::ReconfigureOptions options;
  options.uuid = 5;
  options.handles = std::vector<std::string>{"gloo:1"};
  CHECK_THROWS(c10::ValueError, "not a handle", group->reconfigure(options));
  options.handles = std::vector<std::string>{"rmpi:00000099:1:1"};
  CHECK_THROWS(c10::ValueError, "not among", group->reconfigure(options));
  options.handles = std::vector<std::string>{own, own};
  CHECK_THROWS(c10::ValueError, "twice", group->reconfigure(options));
  options.handles = std::vector<std::string>{own};
  group->reconfigure(options)->wait();
  CHECK_THROWS(c10::ValueError, "used before", group->reconfigure(options));
  CHECK_TRUE(sum(group, 4) == 4);
  group->shutdown();
}

RMPI_TEST(membership, reconfigure_names_who_is_missing_and_may_be_tried_again) {
  if (context.size() == 1) return;
  const auto store = context.make_store();
  const auto group = unconnected(context, store);
  const auto handles = exchanged(context, *store, "handle", group->get_reconfigure_handle());
  c10d::ReconfigureOptions options;
  options.uuid = 1;
  options.handles = handles;
  options.timeout = milliseconds(300);
  if (context.rank() != 0) CHECK_THROWS(c10::DistBackendError, "have not come: 0", group->reconfigure(options));
  if (context.rank() != 0) CHECK_TRUE(!group->isInitialized());
  exchanged(context, *store, "tried", "");
  if (context.rank() == 0) CHECK_THROWS(c10::DistBackendError, "had given up", group->reconfigure(options));
  options.uuid = 2;
  options.timeout = std::nullopt;
  group->reconfigure(options)->wait();
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  group->shutdown();
}

RMPI_TEST(membership, reconfigure_aborts_what_is_under_way) {
  const auto store = context.make_store();
  const auto group = unconnected(context, store);
  const auto handles = exchanged(context, *store, "handle", group->get_reconfigure_handle());
  c10d::ReconfigureOptions options;
  options.handles = handles;
  options.uuid = 1;
  group->reconfigure(options)->wait();
  WorkPtr pending;
  Tensors tensors{at::ones({1})};
  if (context.size() > 1 && context.rank() == 0) pending = group->recv(tensors, 1, 1);
  options.uuid = 2;
  group->reconfigure(options)->wait();
  // Aborted, unless the other rank has left the group before.
  if (pending) CHECK_THROWS(c10::DistBackendError, "", pending->wait());
  CHECK_TRUE(group->getError() == c10d::ErrorType::SUCCESS);
  CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
  group->shutdown();
}

RMPI_TEST(membership, a_group_with_other_ranks_can_be_suspended) {
  const auto store = context.make_store();
  const auto group = unconnected(context, store);
  auto handles = exchanged(context, *store, "handle", group->get_reconfigure_handle());
  c10d::ReconfigureOptions options;
  for (const auto uuid : {1, 2, 3}) {
    // Each generation has other ranks, and counts its own meetings.
    options.uuid = uuid;
    options.handles = handles;
    group->reconfigure(options)->wait();
    for (int round = 0; round < uuid; ++round) {
      group->suspend();
      group->resume();
    }
    CHECK_TRUE(sum(group, 1) == static_cast<float>(context.size()));
    std::rotate(handles.begin(), handles.begin() + 1, handles.end());
  }
  group->shutdown();
}
#endif
