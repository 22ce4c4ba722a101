// Hooks of a group, durations, and extensions of its timeout.
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>

#include "harness.hpp"

using namespace test;

namespace {

#if TORCH_RMPI_HAS_COMPLETION_HOOKS
/// What completion hooks have said.
class Heard {
 public:
  c10d::CompletionHook hook() {
    return [this](const c10d::CompletionHookArgs& args) {
      const std::lock_guard<std::mutex> lock(mutex_);
      durations_.emplace(args.completionKey, args.duration_ms);
    };
  }

  std::size_t count(const WorkPtr& work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return durations_.count(work->getCompletionKey());
  }

  std::optional<float> duration(const WorkPtr& work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return durations_.find(work->getCompletionKey())->second;
  }

  std::size_t total() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return durations_.size();
  }

 private:
  std::mutex mutex_;
  std::multimap<std::uint64_t, std::optional<float>> durations_;
};
#endif

/// Keeps the other ranks in their group until rank 0 has come here.
void await_rank_0(const Context& context, c10d::Store& store) {
  if (context.rank() == 0) store.set("done", "");
  store.get("done");
}

}  // namespace

#if TORCH_RMPI_HAS_COMPLETION_HOOKS
RMPI_TEST(hooks, completion_is_told_once_for_each_work) {
  const auto group = context.make_group();
  Heard heard;
  CHECK_TRUE(group->supportsCompletionHooks());
  group->registerCompletionHook(7, heard.hook());
  std::vector<WorkPtr> works;
  for (int round = 0; round < 20; ++round) {
    Tensors small{at::ones({1})};
    Tensors large{at::ones({300000})};
    works.push_back(group->allreduce(small));
    works.push_back(group->allreduce(large));
    c10d::AllreduceOptions synchronous;
    synchronous.asyncOp = false;
    Tensors waited{at::ones({1})};
    works.push_back(group->allreduce(waited, synchronous));
  }
  for (const auto& work : works) {
    work->wait();
    // Whoever has waited finds that the hook has run.
    CHECK_TRUE(heard.count(work) == 1);
    CHECK_TRUE(!heard.duration(work), "not timed");
  }
  std::set<std::uint64_t> keys;
  for (const auto& work : works) keys.insert(work->getCompletionKey());
  CHECK_TRUE(keys.size() == works.size(), "completion keys are unique");
  group->unregisterCompletionHook(7);
  group->barrier()->wait();
  CHECK_TRUE(heard.total() == works.size(), "an unregistered hook is called no more");
  group->shutdown();
}

RMPI_TEST(hooks, completion_of_a_batch_is_told) {
  const auto group = context.make_group();
  Heard heard;
  group->registerCompletionHook(1, heard.hook());
  group->startCoalescing();
  Tensors first{at::ones({1})};
  Tensors second{at::ones({50000})};
  const auto member = group->allreduce(first);
  group->allreduce(second);
  const auto batch = group->endCoalescing();
  batch->wait();
  CHECK_TRUE(heard.count(batch) == 1);
  CHECK_TRUE(heard.count(member) == 1);
  CHECK_TRUE(heard.total() == 3);
  group->shutdown();
}

RMPI_TEST(hooks, completion_comes_with_the_duration_when_timed) {
  const auto group = context.make_group();
  Heard heard;
  group->registerCompletionHook(1, heard.hook());
  Tensors tensors{at::ones({1})};
  const auto untimed = group->allreduce(tensors);
  untimed->wait();
  CHECK_THROWS(c10::Error, "enableCollectivesTiming", untimed->getDuration());
  group->enableCollectivesTiming();
  for (const auto count : {1, 300000}) {
    Tensors timed{at::ones({count})};
    const auto begun = std::chrono::steady_clock::now();
    const auto work = group->allreduce(timed);
    work->wait();
    const std::chrono::duration<float, std::milli> passed = std::chrono::steady_clock::now() - begun;
    CHECK_TRUE(work->getDuration() >= 0 && work->getDuration() <= passed.count(), work->getDuration(), " of ",
               passed.count());
    CHECK_TRUE(heard.duration(work) == work->getDuration());
  }
  group->shutdown();
}

RMPI_TEST(hooks, a_hook_that_throws_hurts_nobody) {
  const auto group = context.make_group();
  Heard heard;
  group->registerCompletionHook(1, [](const c10d::CompletionHookArgs&) { throw std::runtime_error("on purpose"); });
  group->registerCompletionHook(2, heard.hook());
  Tensors tensors{at::ones({2})};
  const auto work = group->allreduce(tensors);
  work->wait();
  CHECK_TRUE(work->isSuccess() && heard.count(work) == 1);
  CHECK_SAME(tensors[0], at::full({2}, static_cast<float>(context.size())));
  group->shutdown();
}

RMPI_TEST(hooks, failed_work_is_not_told_as_completed) {
  const auto group = context.make_group(milliseconds(500));
  const auto store = context.make_store();
  Heard heard;
  group->registerCompletionHook(1, heard.hook());
  if (context.size() > 1 && context.rank() == 0) {
    Tensors tensors{at::ones({1})};
    const auto work = group->recv(tensors, 1, 5);
    CHECK_THROWS(c10::DistBackendError, "recv", work->wait());
    CHECK_TRUE(work->isCompleted() && heard.count(work) == 0);
  }
  await_rank_0(context, *store);
}
#endif

RMPI_TEST(hooks, abort_hooks_run_once_before_the_waiter_goes_on) {
  const auto group = context.make_group(milliseconds(500));
  CHECK_TRUE(group->supportsAbortHooks());
  const auto store = context.make_store();
  std::atomic<int> called{0};
  std::atomic<int> removed{0};
  group->registerAbortHook(1, [&] { ++called; });
  group->registerAbortHook(2, [] { throw std::runtime_error("on purpose"); });
  group->registerAbortHook(3, [&] { ++called; });
  group->registerAbortHook(4, [&] { ++removed; });
  group->unregisterAbortHook(4);
  if (context.size() > 1 && context.rank() == 0) {
    // Nobody sends.
    Tensors first{at::ones({1})};
    Tensors second{at::ones({1})};
    const auto works = {group->recv(first, 1, 1), group->recv(second, 1, 2)};
    for (const auto& work : works) {
      CHECK_THROWS(c10::DistBackendError, "", work->wait());
      CHECK_TRUE(called == 2, called.load());
    }
    CHECK_THROWS(c10::DistBackendError, "", group->recv(first, 1, 3));
    CHECK_TRUE(called == 2 && removed == 0, called.load());
  }
  await_rank_0(context, *store);
}

RMPI_TEST(hooks, abort_hooks_do_not_run_for_what_was_asked_for) {
  const auto group = context.make_group();
  const auto store = context.make_store();
  std::atomic<int> called{0};
  group->registerAbortHook(1, [&] { ++called; });
  Tensors tensors{at::ones({1})};
  CHECK_THROWS(c10::ValueError, "root", group->broadcast(tensors, {context.size(), 0}));
  if (context.size() > 1) {
    // A monitored barrier leaves the group usable, also in a batch.
    if (context.rank() == 0) {
      c10d::BarrierOptions hurried;
      hurried.timeout = milliseconds(100);
      group->startCoalescing();
      CHECK_THROWS(c10::DistBackendError, "monitoredBarrier", group->monitoredBarrier(hurried));
      group->endCoalescing();
    }
    group->barrier()->wait();
  }
  group->barrier()->wait();
  CHECK_TRUE(called == 0);
  if (context.size() > 1 && context.rank() == 0) {
    const auto pending = group->recv(tensors, 1, 1);
    group->abort();
    CHECK_THROWS(c10::DistBackendError, "", pending->wait());
    CHECK_TRUE(called == 0, called.load());
  }
  await_rank_0(context, *store);
}

RMPI_TEST(hooks, an_operation_that_is_refused_leaves_the_extension_to_the_next) {
#if TORCH_RMPI_TORCH_AT_LEAST(2, 14)
  const auto group = context.make_group(std::chrono::seconds(60));
  Tensors tensors{at::ones({1})};
  group->addEphemeralTimeout(milliseconds(500));
  CHECK_THROWS(c10::ValueError, "tag", group->send(tensors, 0, -5));
  // An estimate is no operation either.
  group->startTimeEstimate();
  group->allreduce(tensors);
  group->endTimeEstimate();
  const auto work = group->allreduce(tensors);
  work->wait();
  CHECK_TRUE(work->getTimeout() == milliseconds(60500), work->getTimeout().count());
  group->shutdown();
#endif
}

RMPI_TEST(hooks, an_abort_hook_may_abort) {
  const auto group = context.make_group(milliseconds(300));
  const auto store = context.make_store();
  std::atomic<int> called{0};
  group->registerAbortHook(1, [&] {
    ++called;
    group->abort();
    group->unregisterAbortHook(1);
  });
  if (context.size() > 1 && context.rank() == 0) {
    Tensors tensors{at::ones({1})};
    CHECK_THROWS(c10::DistBackendError, "recv", group->recv(tensors, 1, 1)->wait());
    CHECK_TRUE(called == 1, called.load());
  }
  await_rank_0(context, *store);
}

RMPI_TEST(hooks, slow_abort_hooks_do_not_hold_errors_back) {
  constexpr milliseconds kSlow(4000);
  constexpr milliseconds kTimeout(200);
  const auto store = context.make_store();
  std::vector<decltype(context.make_group(kTimeout))> groups;
  std::atomic<int> begun{0};
  std::atomic<int> ended{0};
  for (int count = 0; count < 5; ++count) {
    groups.push_back(context.make_group(kTimeout));
    groups.back()->registerAbortHook(1, [&] {
      ++begun;
      std::this_thread::sleep_for(kSlow);
      ++ended;
    });
  }
  if (context.size() > 1 && context.rank() == 0) {
    const auto begin = std::chrono::steady_clock::now();
    Tensors tensors{at::ones({1})};
    // Nobody sends.
    for (const auto& group : groups) CHECK_THROWS(c10::DistBackendError, "recv", group->recv(tensors, 1, 1)->wait());
    const auto passed = std::chrono::steady_clock::now() - begin;
    CHECK_TRUE(ended == 0 && passed < kSlow, std::chrono::duration_cast<milliseconds>(passed).count());
    CHECK_TRUE(!rmpi::await_abort_hooks(milliseconds(1)), "they run still");
    CHECK_TRUE(rmpi::await_abort_hooks());
    CHECK_TRUE(begun == 5 && ended == 5, begun.load(), " ", ended.load());
  }
  await_rank_0(context, *store);
}

RMPI_TEST(hooks, every_operation_is_reported) {
  const auto group = context.make_group();
  std::mutex mutex;
  std::vector<std::shared_ptr<c10d::WorkInfo>> infos;
  CHECK_TRUE(!group->hasHooks());
  // The hook may issue and wait.
  std::atomic<bool> issued{false};
  group->registerOnCompletionHook([&](const std::shared_ptr<c10d::WorkInfo>& info) {
    if (info->opType == c10d::OpType::BROADCAST && !issued.exchange(true)) group->barrier()->wait();
    const std::lock_guard<std::mutex> lock(mutex);
    infos.push_back(info);
  });
  CHECK_TRUE(group->hasHooks());
  CHECK_THROWS(c10::ValueError, "already", group->registerOnCompletionHook([](const auto&) {}));
  const auto first = group->getSequenceNumberForGroup();
  for (int round = 0; round < 5; ++round) {
    Tensors tensors{at::ones({1})};
    group->allreduce(tensors);
  }
  Tensors tensors{at::ones({1})};
  group->broadcast(tensors);
  group->waitForPendingWorks();
  // What is only estimated is not waited for, nor reported, however long its Work lives.
  WorkPtr estimated;
  group->startTimeEstimate();
  estimated = group->allreduce(tensors);
  group->endTimeEstimate();
  group->waitForPendingWorks();
  const std::lock_guard<std::mutex> lock(mutex);
  CHECK_TRUE(infos.size() == 7, infos.size());
  std::set<std::uint64_t> numbers;
  for (const auto& info : infos) {
    CHECK_TRUE(info->timeFinished >= info->timeStarted && info->activeDuration.count() >= 0);
    numbers.insert(info->seq);
  }
  CHECK_TRUE(numbers.size() == 7 && *numbers.begin() == first && *numbers.rbegin() == first + 6);
  group->shutdown();
}

RMPI_TEST(hooks, waiting_for_pending_works_without_a_hook) {
  const auto group = context.make_group();
  Tensors tensors{at::ones({300000})};
  const auto work = group->allreduce(tensors);
  group->waitForPendingWorks();
  CHECK_TRUE(work->isCompleted());
  group->shutdown();
}

RMPI_TEST(hooks, an_extension_of_the_timeout_ends_with_the_first_operation_after_it) {
  const auto group = context.make_group(std::chrono::seconds(60));
  const auto timeout_of = [&](milliseconds given) {
    c10d::AllreduceOptions options;
    options.timeout = given;
    Tensors tensors{at::ones({1})};
    const auto work = group->allreduce(tensors, options);
    work->wait();
    return work;
  };
#if TORCH_RMPI_TORCH_AT_LEAST(2, 14)
  const auto unset = c10d::kUnsetTimeout;
  group->addEphemeralTimeout(milliseconds(500));
  group->addEphemeralTimeout(milliseconds(250));
  CHECK_TRUE(timeout_of(unset)->getTimeout() == milliseconds(60750));
  // It has ended: the extensions are gone.
  CHECK_TRUE(timeout_of(unset)->getTimeout() == milliseconds(60000));

  // Pending operations keep it; so do those issued before the first has ended, and their own timeouts are extended,
  // too.
  group->addEphemeralTimeout(milliseconds(1000));
  Tensors received{at::ones({1})};
  if (context.size() > 1) {
    if (context.rank() == 0) {
      const auto first = group->recv(received, 1, 9);
      CHECK_TRUE(first->getTimeout() == milliseconds(61000));
      group->addEphemeralTimeout(milliseconds(10));
      const auto second = group->recv(received, 1, 10);
      CHECK_TRUE(second->getTimeout() == milliseconds(61010));
      group->barrier()->wait();
      first->wait();
      second->wait();
    } else {
      group->barrier()->wait();
      if (context.rank() == 1) {
        group->send(received, 0, 9)->wait();
        group->send(received, 0, 10)->wait();
      }
    }
  } else {
    CHECK_TRUE(timeout_of(milliseconds(5000))->getTimeout() == milliseconds(6000));
  }
  CHECK_TRUE(timeout_of(unset)->getTimeout() == milliseconds(60000));
#endif
  CHECK_THROWS(c10::ValueError, "negative", group->addEphemeralTimeout(milliseconds(-1)));
  group->shutdown();
}
