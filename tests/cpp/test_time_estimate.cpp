// Estimates of the time that operations take.
#include <thread>

#include "harness.hpp"

using namespace test;

namespace {

/// Microseconds of what `function` issues.
template <class Function>
float estimated(Group& group, Function function) {
  group.startTimeEstimate();
  function();
  return group.endTimeEstimate();
}

float all_reduce_of(Group& group, std::int64_t bytes) {
  return estimated(group, [&] {
    Tensors tensors{at::ones({bytes / 4})};
    group.allreduce(tensors)->wait();
  });
}

}  // namespace

RMPI_TEST(time_estimate, nothing_moves) {
  const auto group = context.make_group();
  CHECK_TRUE(group->supportsTimeEstimation());
  Tensors tensors{sample(context.rank(), {100})};
  const auto before = tensors[0].clone();
  group->startTimeEstimate();
  const auto number = group->getSequenceNumberForGroup();
  const auto work = group->allreduce(tensors);
  CHECK_TRUE(work->isCompleted() && work->isSuccess());
  // Not contiguous, and into a copy.
  Tensors strided{sample(context.rank(), {10, 10}).t()};
  const auto columns = strided[0].clone();
  group->broadcast(strided)->wait();
  if (context.rank() == 0) group->send(tensors, (context.rank() + 1) % context.size(), 3)->wait();
  const auto time = group->endTimeEstimate();
  CHECK_TRUE(time > 0, time);
  CHECK_SAME(tensors[0], before);
  CHECK_SAME(strided[0], columns);
  CHECK_TRUE(group->getSequenceNumberForGroup() == number);
  // And then it works again.
  group->allreduce(tensors)->wait();
  group->barrier()->wait();
  group->shutdown();
}

RMPI_TEST(time_estimate, longer_takes_longer) {
  const auto group = context.make_group();
  float last = 0;
  for (const auto bytes :
       {std::int64_t{1} << 10, std::int64_t{64} << 10, std::int64_t{1} << 20, std::int64_t{32} << 20}) {
    const auto time = all_reduce_of(*group, bytes);
    CHECK_TRUE(time >= last && time > 0, bytes, " bytes: ", time, " after ", last);
    last = time;
  }
  CHECK_TRUE(estimated(*group, [] {}) == 0);
  const auto once = estimated(*group, [&] { group->barrier()->wait(); });
  const auto thrice = estimated(*group, [&] {
    for (int round = 0; round < 3; ++round) group->barrier()->wait();
  });
  CHECK_TRUE(std::abs(thrice - 3 * once) < 0.001F * thrice, once, " ", thrice);
  group->shutdown();
}

RMPI_TEST(time_estimate, ranks_agree_and_groups_of_a_kind_share) {
  const auto group = context.make_group();
  const auto other = context.make_group();
  for (const auto bytes : {std::int64_t{4096}, std::int64_t{3} << 20}) {
    const auto time = all_reduce_of(*group, bytes);
    CHECK_TRUE(time == all_reduce_of(*other, bytes));
    Tensors all{at::full({1}, time)};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::MAX;
    group->allreduce(all, options)->wait();
    CHECK_TRUE(all[0].item<float>() == time);
  }
  group->shutdown();
  other->shutdown();
}

RMPI_TEST(time_estimate, belongs_to_its_thread) {
  const auto group = context.make_group();
  group->startTimeEstimate();
  Tensors tensors{at::ones({2})};
  std::thread([&] { group->allreduce(tensors)->wait(); }).join();
  CHECK_SAME(tensors[0], at::full({2}, static_cast<float>(context.size())));
  CHECK_TRUE(group->endTimeEstimate() == 0);
  CHECK_THROWS(c10::Error, "without startTimeEstimate", group->endTimeEstimate());
  group->shutdown();
}

RMPI_TEST(time_estimate, batches_and_bad_calls) {
  const auto group = context.make_group();
  group->startTimeEstimate();
  group->startCoalescing();
  Tensors first{at::ones({1})};
  Tensors second{at::ones({1000})};
  group->allreduce(first);
  group->allreduce(second);
  const auto batch = group->endCoalescing();
  CHECK_TRUE(batch->isCompleted() && batch->result().size() == 2);
  CHECK_THROWS(c10::ValueError, "root", group->broadcast(first, {context.size(), 0}));
  Tensors sparse{at::sparse_coo_tensor(at::zeros({1, 1}, at::kLong), at::ones({1}), {3})};
  CHECK_THROWS(c10::NotImplementedError, "estimated", group->allreduce(sparse));
  CHECK_TRUE(group->endTimeEstimate() > 0);
  CHECK_SAME(first[0], at::ones({1}));
  group->shutdown();
}
