// Several operations under one Work.
#include "harness.hpp"

using namespace test;

RMPI_TEST(coalesced, all_reduce) {
  const auto group = context.make_group();
  Tensors tensors{at::full({3}, context.rank() + 1.0), at::full({5}, context.rank() + 1, at::kLong)};
  const auto work = group->allreduce_coalesced(tensors);
  work->wait();
  const int sum = context.size() * (context.size() + 1) / 2;
  CHECK_SAME(tensors[0], at::full({3}, static_cast<double>(sum)));
  CHECK_SAME(tensors[1], at::full({5}, sum, at::kLong));
  CHECK_TRUE(work->isCompleted() && work->isSuccess());
  CHECK_TRUE(work->result().size() == 2);
  group->shutdown();
}

RMPI_TEST(coalesced, all_gather) {
  const auto group = context.make_group();
  Tensors inputs{sample(context.rank(), {2}), sample(context.rank(), {3}, at::kInt)};
  std::vector<Tensors> outputs;
  for (int rank = 0; rank < context.size(); ++rank) outputs.push_back({at::zeros({2}), at::zeros({3}, at::kInt)});
  group->allgather_coalesced(outputs, inputs)->wait();
  for (int rank = 0; rank < context.size(); ++rank) {
    CHECK_SAME(outputs[rank][0], sample(rank, {2}));
    CHECK_SAME(outputs[rank][1], sample(rank, {3}, at::kInt));
  }
  Tensors wholes{at::zeros({context.size(), 2}), at::zeros({context.size(), 3}, at::kInt)};
  group->TORCH_RMPI_ALL_GATHER_SINGLE_COALESCED(wholes, inputs)->wait();
  for (int rank = 0; rank < context.size(); ++rank) {
    CHECK_SAME(wholes[0][rank], sample(rank, {2}));
    CHECK_SAME(wholes[1][rank], sample(rank, {3}, at::kInt));
  }
  group->shutdown();
}

RMPI_TEST(coalesced, reduce_scatter) {
  const auto group = context.make_group();
  const int size = context.size();
  Tensors inputs{at::arange(size, at::kFloat), at::ones({size, 4}, at::kLong)};
  Tensors outputs{at::zeros({1}), at::zeros({4}, at::kLong)};
  group->TORCH_RMPI_REDUCE_SCATTER_SINGLE_COALESCED(outputs, inputs)->wait();
  CHECK_SAME(outputs[0], at::full({1}, static_cast<float>(size * context.rank())));
  CHECK_SAME(outputs[1], at::full({4}, size, at::kLong));
  group->shutdown();
}

RMPI_TEST(coalesced, messages_both_ways) {
  const auto group = context.make_group();
  const int next = (context.rank() + 1) % context.size();
  const int previous = (context.rank() + context.size() - 1) % context.size();
  Tensors sent{sample(context.rank(), {100'000})};
  Tensors received{at::zeros({100'000})};
  CHECK_TRUE(group->supportsCoalescing());
  group->startCoalescing();
  const auto send = group->send(sent, next, 3);
  group->recv(received, previous, 3);
  const auto work = group->endCoalescing();
  work->wait();
  CHECK_TRUE(send->isCompleted());
  CHECK_SAME(received[0], sample(previous, {100'000}));
  group->shutdown();
}

RMPI_TEST(coalesced, synchronous_operations_return_at_once) {
  const auto group = context.make_group();
  group->startCoalescing();
  c10d::AllreduceOptions options;
  options.asyncOp = false;
  Tensors first{at::ones({2})};
  Tensors second{at::ones({2})};
  group->allreduce(first, options);
  group->allreduce(second, options);
  const auto work = group->endCoalescing();
  work->getFuture()->wait();
  CHECK_SAME(first[0], at::full({2}, static_cast<float>(context.size())));
  CHECK_SAME(second[0], at::full({2}, static_cast<float>(context.size())));
  CHECK_THROWS(c10::Error, "without startCoalescing", group->endCoalescing());
  group->shutdown();
}

RMPI_TEST(coalesced, nothing) {
  const auto group = context.make_group();
  group->startCoalescing();
  const auto work = group->endCoalescing();
  CHECK_TRUE(work->isCompleted());
  CHECK_TRUE(work->wait());
  CHECK_TRUE(work->getFuture()->completed());
  group->shutdown();
}

RMPI_TEST(coalesced, refused_member_leaves_the_rest) {
  const auto group = context.make_group();
  Tensors tensors{at::ones({2})};
  Tensors wrong{at::ones({2}), at::ones({2})};
  group->startCoalescing();
  group->allreduce(tensors);
  CHECK_THROWS(c10::ValueError, "exactly one tensor", group->allreduce(wrong));
  group->endCoalescing()->wait();
  CHECK_SAME(tensors[0], at::full({2}, static_cast<float>(context.size())));
  group->shutdown();
}
