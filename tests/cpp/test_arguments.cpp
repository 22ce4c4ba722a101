// Bad arguments: the class of the error, what it says, and that the group works afterwards.
#include "harness.hpp"

using namespace test;

namespace {

// Nothing moved if the next collective still matches on all ranks.
void check_usable(const Context& context, Group& group) {
  Tensors tensors{at::ones({1})};
  group.allreduce(tensors)->wait();
  CHECK_SAME(tensors[0], at::full({1}, static_cast<float>(context.size())));
}

}  // namespace

RMPI_TEST(arguments, number_of_tensors) {
  const auto group = context.make_group();
  Tensors none;
  Tensors two{at::ones({1}), at::ones({1})};
  CHECK_THROWS(c10::ValueError, "exactly one tensor", group->broadcast(none));
  CHECK_THROWS(c10::ValueError, "exactly one tensor", group->allreduce(two));
  CHECK_THROWS(c10::ValueError, "exactly one tensor", group->send(two, 0, 0));
  std::vector<Tensors> outputs{Tensors(context.size() + 1, at::ones({1}))};
  Tensors one{at::ones({1})};
  CHECK_THROWS(c10::ValueError, "one tensor for each", group->allgather(outputs, one));
  CHECK_THROWS(c10::ValueError, "one tensor for each", group->alltoall(outputs[0], one));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, tensors) {
  const auto group = context.make_group();
  Tensors undefined{at::Tensor()};
  CHECK_THROWS(c10::ValueError, "undefined", group->allreduce(undefined));
  Tensors expanded{at::ones({1}).expand({4})};
  CHECK_THROWS(c10::ValueError, "share memory", group->allreduce(expanded));
  Tensors meta{at::empty({2}, at::device(at::kMeta))};
  CHECK_THROWS(c10::ValueError, "cpu:rmpi", group->allreduce(meta));
  Tensors sparse{at::ones({2, 2}).to_sparse()};
  CHECK_THROWS(c10::ValueError, ".to_dense()", group->broadcast(sparse));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, dtypes_and_shapes) {
  const auto group = context.make_group();
  const int size = context.size();
  auto floats = at::ones({2});
  auto doubles = at::ones({2 * size}, at::kDouble);
  CHECK_THROWS(c10::TypeError, "dtype", group->TORCH_RMPI_ALL_GATHER_SINGLE(doubles, floats));
  auto too_long = at::ones({2 * size + 1});
  CHECK_THROWS(c10::ValueError, "elements", group->TORCH_RMPI_ALL_GATHER_SINGLE(too_long, floats));
  CHECK_THROWS(c10::ValueError, "elements", group->TORCH_RMPI_REDUCE_SCATTER_SINGLE(floats, too_long));
  std::vector<Tensors> outputs{Tensors(size, at::ones({3}))};
  Tensors input{floats};
  CHECK_THROWS(c10::ValueError, "shape", group->allgather(outputs, input));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, splits) {
  const auto group = context.make_group();
  const int size = context.size();
  std::vector<int64_t> even;
  auto output = at::ones({size});
  auto scalar = at::ones({});
  CHECK_THROWS(c10::ValueError, "dimension", group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, scalar, even, even));
  std::vector<int64_t> wrong_count(size + 1, 0);
  CHECK_THROWS(c10::ValueError, "split sizes", group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, output, even, wrong_count));
  std::vector<int64_t> wrong_sum(size, 2);
  CHECK_THROWS(c10::ValueError, "add up", group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, output, wrong_sum, even));
  std::vector<int64_t> negative(size, -1);
  CHECK_THROWS(c10::ValueError, "negative", group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, output, negative, even));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, ranks_and_tags) {
  const auto group = context.make_group();
  Tensors tensors{at::ones({1})};
  c10d::BroadcastOptions options;
  for (const int root : {-1, context.size()}) {
    options.rootRank = root;
    CHECK_THROWS(c10::ValueError, "invalid root rank", group->broadcast(tensors, options));
  }
  CHECK_THROWS(c10::ValueError, "destination", group->send(tensors, context.size(), 0));
  CHECK_THROWS(c10::ValueError, "source", group->recv(tensors, -1, 0));
  CHECK_THROWS(c10::ValueError, "tag", group->send(tensors, 0, -1));
  std::vector<Tensors> lists{Tensors(context.size(), at::ones({1}))};
  c10d::GatherOptions gather;
  gather.rootRank = 0;
  if (context.rank() != 0) CHECK_THROWS(c10::ValueError, "must be empty", group->gather(lists, tensors, gather));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, reduce_ops) {
  const auto group = context.make_group();
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::BAND;
  Tensors floats{at::ones({1})};
  CHECK_THROWS(c10::TypeError, "float32", group->allreduce(floats, options));
  options.reduceOp = c10d::ReduceOp::SUM;
  Tensors bytes{at::ones({1}).to(at::kFloat8_e4m3fn)};
  CHECK_THROWS(c10::TypeError, "", group->allreduce(bytes, options));
  options.reduceOp.op_ = c10d::ReduceOp::PREMUL_SUM;
  CHECK_THROWS(c10::ValueError, "factor", group->allreduce(floats, options));
  check_usable(context, *group);
  group->shutdown();
}

RMPI_TEST(arguments, group) {
  CHECK_THROWS(c10::ValueError, "store", Group(nullptr, 0, 1));
  const auto store = context.make_store();
  CHECK_THROWS(c10::ValueError, "rank", Group(store, 2, 2));
}
