// Work: futures, waiting with a timeout, works that nobody keeps, interrupts.
#include <atomic>
#include <stdexcept>
#include <thread>

#include "harness.hpp"

using namespace test;

namespace {

struct Interrupted : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Rank 0 does `early` before the others come to the barrier, and `late` afterwards. Needs two ranks.
template <class Early>
void before_the_others(const Context& context, Group& group, Early early) {
  Tensors token{at::ones({1})};
  if (context.rank() == 0) {
    early();
    for (int rank = 1; rank < context.size(); ++rank) group.send(token, rank, 99)->wait();
  } else {
    group.recv(token, 0, 99)->wait();
  }
}

}  // namespace

RMPI_TEST(work, future) {
  const auto group = context.make_group();
  Tensors tensors{sample(context.rank(), {3})};
  const auto work = group->allreduce(tensors);
  const auto future = work->getFuture();
  std::atomic<int> called{0};
  const auto next = future->then(
      [&called](c10::ivalue::Future& done) {
        ++called;
        return c10::IValue(done.value().toTensorVector()[0] * 2);
      },
      c10::TensorType::get());
  next->wait();
  CHECK_TRUE(called == 1);
  CHECK_SAME(next->value().toTensor(), tensors[0] * 2);
  work->wait();
  CHECK_TRUE(work->getFutureResult()->constValue().toInt() == static_cast<int>(c10d::WorkResult::SUCCESS));
  // Asked for late, it is there at once.
  const auto barrier = group->barrier();
  barrier->wait();
  barrier->getFuture()->wait();
  CHECK_TRUE(barrier->result().empty());
  group->shutdown();
}

RMPI_TEST(work, callback_may_issue_and_wait) {
  const auto group = context.make_group();
  Tensors first{at::ones({2})};
  Tensors second{at::ones({2})};
  const auto done = group->allreduce(first)->getFuture()->then(
      [&](c10::ivalue::Future&) {
        group->allreduce(second)->wait();
        return c10::IValue(1);
      },
      c10::IntType::get());
  done->wait();
  CHECK_TRUE(!done->hasError(), done->hasError() ? done->tryRetrieveErrorMessage() : "");
  CHECK_SAME(second[0], at::full({2}, static_cast<float>(context.size())));
  group->shutdown();
}

RMPI_TEST(work, dropped_work_completes_and_frees_its_tensors) {
  const auto group = context.make_group();
  auto tensor = at::ones({1000});
  for (int round = 0; round < 20; ++round) {
    Tensors tensors{tensor};
    group->broadcast(tensors);
  }
  group->barrier()->wait();
  group->shutdown();
  CHECK_TRUE(tensor.use_count() == 1, "references are left: ", tensor.use_count());
}

RMPI_TEST(work, state_before_and_after) {
  const auto group = context.make_group();
  if (context.size() > 1) {
    WorkPtr work;
    before_the_others(context, *group, [&] {
      work = group->barrier();
      CHECK_TRUE(!work->isCompleted());
      CHECK_TRUE(!work->isSuccess());
      CHECK_TRUE(work->exception() == nullptr);
      CHECK_THROWS(c10::Error, "wait()", work->result());
    });
    if (!work) work = group->barrier();
    work->wait();
    work->synchronize();
    CHECK_TRUE(work->isCompleted() && work->isSuccess());
  }
  group->shutdown();
}

RMPI_TEST(work, wait_with_timeout_and_again) {
  const auto group = context.make_group();
  if (context.size() > 1) {
    WorkPtr work;
    Tensors tensors{at::ones({1})};
    before_the_others(context, *group, [&] {
      work = group->allreduce(tensors);
      CHECK_THROWS(c10::DistBackendError, " timeout ", work->wait(milliseconds(150)));
      CHECK_THROWS(c10::DistBackendError, "all_reduce", work->wait(milliseconds(1)));
    });
    if (!work) work = group->allreduce(tensors);
    work->wait();
    CHECK_SAME(tensors[0], at::full({1}, static_cast<float>(context.size())));
  }
  group->shutdown();
}

RMPI_TEST(work, operation_that_times_out) {
  // A group of its own: it is of no use afterwards.
  const auto group = context.make_group();
  const auto broken = context.make_group();
  if (context.size() > 1) {
    before_the_others(context, *group, [&] {
      c10d::AllreduceOptions options;
      options.timeout = milliseconds(200);
      Tensors tensors{at::ones({1})};
      const auto work = broken->allreduce(tensors, options);
#if TORCH_RMPI_TORCH_AT_LEAST(2, 14)
      CHECK_TRUE(work->getTimeout() == milliseconds(200));
#endif
      CHECK_THROWS(c10::DistBackendError, "all_reduce", work->wait());
      CHECK_TRUE(work->isCompleted() && !work->isSuccess() && work->exception() != nullptr);
      CHECK_TRUE(work->getFuture()->hasError());
      CHECK_TRUE(work->getFutureResult()->constValue().toInt() == static_cast<int>(c10d::WorkResult::TIMEOUT));
      CHECK_TRUE(broken->getError() != c10d::ErrorType::SUCCESS);
      CHECK_THROWS(c10::DistBackendError, "", broken->allreduce(tensors));
    });
    broken->abort();
  }
  group->shutdown();
}

RMPI_TEST(work, interrupt_leaves_the_wait_but_not_the_operation) {
  const auto group = context.make_group();
  if (context.size() > 1) {
    WorkPtr work;
    before_the_others(context, *group, [&] {
      work = group->barrier();
      rmpi::set_interrupt_hook([] { throw Interrupted("Ctrl-C"); });
      bool interrupted = false;
      try {
        work->wait();
      } catch (const Interrupted&) {
        interrupted = true;
      }
      rmpi::set_interrupt_hook(nullptr);
      CHECK_TRUE(interrupted);
    });
    if (!work) work = group->barrier();
    work->wait();
  }
  group->shutdown();
}

RMPI_TEST(work, threads_wait_for_one_work) {
  const auto group = context.make_group();
  Tensors tensors{at::ones({100'000})};
  const auto work = group->allreduce(tensors);
  std::vector<std::thread> threads;
  for (int index = 0; index < 4; ++index) threads.emplace_back([&work] { work->wait(); });
  for (auto& thread : threads) thread.join();
  CHECK_SAME(tensors[0], at::full({100'000}, static_cast<float>(context.size())));
  group->shutdown();
}
