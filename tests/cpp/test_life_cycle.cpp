// Groups: creation, options, subgroups, shutdown, abort, fork.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "harness.hpp"

using namespace test;

namespace {

/// Uses a group when the process has ended its communication: made before main(), so destroyed after that.
struct LateCaller {
  c10::intrusive_ptr<Group> group;

  ~LateCaller() {
    if (!group) return;
    try {
      group->barrier();
    } catch (const c10::Error& error) {
      const std::string text = error.what();
      (void)group.release();
      if (text.find("finalized") != std::string::npos) return;
      std::fprintf(stderr, "a late call has failed in another way: %s\n", text.c_str());
      _exit(3);
    }
    std::fputs("a late call was carried out\n", stderr);
    _exit(3);
  }
};

LateCaller late_caller;

}  // namespace

RMPI_TEST(life_cycle, a_call_at_the_end_of_the_process_is_refused) {
  // What it does is seen in the exit status of this program.
  late_caller.group = context.make_group();
  late_caller.group->barrier()->wait();
}

RMPI_TEST(life_cycle, names_and_options) {
  CHECK_TRUE(!rmpi::version().empty());
  CHECK_TRUE(!rmpi::mpi_library_version().empty());
  const auto group = context.make_group(milliseconds(5000));
  CHECK_TRUE(group->getBackendName() == "rmpi");
  CHECK_TRUE(group->getRank() == context.rank() && group->getSize() == context.size());
  CHECK_TRUE(group->getBackendOptions()->timeout == milliseconds(5000));
  group->setTimeout(milliseconds(7000));
  CHECK_TRUE(group->barrier()->getSequencenumber() == group->getSequenceNumberForGroup() - 1 ||
             group->getSequenceNumberForGroup() == 1);
  const auto options = Group::Options::create(milliseconds(1));
  options->group_name = "name";
  const auto copy = options->clone();
  CHECK_TRUE(copy->group_name == "name" && copy->timeout == milliseconds(1));
  CHECK_TRUE(dynamic_cast<Group::Options*>(copy.get()) != nullptr);
  CHECK_TRUE(group->getError() == c10d::ErrorType::SUCCESS);
  group->shutdown();
}

RMPI_TEST(life_cycle, many_groups_in_one_store) {
  const auto store = context.make_store();
  for (int round = 0; round < 20; ++round) {
    // The same names again: what an earlier group left in the store must not be taken for this one's.
    const auto group = c10::make_intrusive<Group>(store, context.rank(), context.size());
    Tensors tensors{at::ones({1})};
    group->allreduce(tensors)->wait();
    CHECK_SAME(tensors[0], at::full({1}, static_cast<float>(context.size())));
    group->shutdown();
    group->shutdown();
  }
}

RMPI_TEST(life_cycle, subgroups_in_reverse_order) {
  const auto store = context.make_store();
  const auto world = context.make_group();
  const int rank = context.size() - 1 - context.rank();
  const auto reversed =
      c10::make_intrusive<Group>(c10::make_intrusive<c10d::PrefixStore>("reversed", store), rank, context.size());
  Tensors tensors{at::full({1}, context.rank())};
  reversed->broadcast(tensors)->wait();
  CHECK_SAME(tensors[0], at::full({1}, context.size() - 1));

  // Only members create it.
  if (context.rank() > 0) {
    const auto rest = c10::make_intrusive<Group>(c10::make_intrusive<c10d::PrefixStore>("rest", store),
                                                 context.rank() - 1, context.size() - 1);
    Tensors ones{at::ones({1})};
    rest->allreduce(ones)->wait();
    CHECK_SAME(ones[0], at::full({1}, static_cast<float>(context.size() - 1)));
    rest->shutdown();
  }
  world->barrier()->wait();
  reversed->shutdown();
  world->shutdown();
}

RMPI_TEST(life_cycle, missing_ranks_are_named) {
  const auto store = context.make_store();
  const auto options = Group::Options::create(milliseconds(300));
  options->group_name = "lonely";
  CHECK_THROWS(c10::DistBackendError, std::to_string(context.size()),
               Group(c10::make_intrusive<c10d::PrefixStore>(std::to_string(context.rank()), store), context.rank(),
                     context.size() + 1, options));
}

RMPI_TEST(life_cycle, destruction_without_shutdown) {
  for (int round = 0; round < 3; ++round) {
    const auto group = context.make_group();
    group->barrier()->wait();
  }
}

RMPI_TEST(life_cycle, use_after_shutdown_and_abort) {
  const auto closed = context.make_group();
  closed->shutdown();
  bool refused = false;
  try {
    closed->barrier();
  } catch (const c10::Error&) {
    refused = true;
  }
  CHECK_TRUE(refused);
  const auto aborted = context.make_group();
  aborted->abort();
  CHECK_THROWS(c10::DistBackendError, "abort", aborted->barrier()->wait());
  CHECK_TRUE(aborted->getError() != c10d::ErrorType::SUCCESS);
}

RMPI_TEST(life_cycle, forked_child) {
  auto group = context.make_group();
  const pid_t child = fork();
  CHECK_TRUE(child >= 0);
  if (child == 0) {
    int status = 1;
    try {
      group->barrier();
    } catch (const c10::NotImplementedError&) {
      status = 0;
    } catch (...) {
      status = 2;
    }
    // The destructor must leave the parent's MPI alone.
    group.reset();
    _exit(status);
  }
  int status = 0;
  CHECK_TRUE(waitpid(child, &status, 0) == child);
  CHECK_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status ", status);
  group->barrier()->wait();
  group->shutdown();
}
