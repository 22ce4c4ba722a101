// Collectives that move data, against plain loops.
#include "harness.hpp"

using namespace test;

namespace {

// Every rank's sample, one after the other.
Tensors samples(int size, at::IntArrayRef shape, at::ScalarType dtype) {
  Tensors all;
  for (int rank = 0; rank < size; ++rank) all.push_back(sample(rank, shape, dtype));
  return all;
}

const std::vector<at::ScalarType>& moving_dtypes() {
  static const std::vector<at::ScalarType> dtypes{
      at::kHalf,          at::kBFloat16, at::kFloat, at::kDouble, at::kComplexHalf,   at::kComplexFloat,
      at::kComplexDouble, at::kByte,     at::kChar,  at::kUInt16, at::kShort,         at::kUInt32,
      at::kInt,           at::kUInt64,   at::kLong,  at::kBool,   at::kFloat8_e4m3fn, at::kFloat8_e5m2};
  return dtypes;
}

}  // namespace

RMPI_TEST(collectives, broadcast) {
  const auto group = context.make_group();
  const std::vector<std::vector<std::int64_t>> shapes{{7, 3}, {}, {0}};
  for (const auto dtype : moving_dtypes()) {
    for (int root = 0; root < context.size(); ++root) {
      for (const auto& shape : shapes) {
        Tensors tensors{sample(context.rank(), shape, dtype)};
        c10d::BroadcastOptions options;
        options.rootRank = root;
        group->broadcast(tensors, options)->wait();
        CHECK_SAME(tensors[0], sample(root, shape, dtype));
      }
    }
  }
  group->shutdown();
}

RMPI_TEST(collectives, broadcast_of_megabytes) {
  const auto group = context.make_group();
  Tensors tensors{at::full({3'000'001}, context.rank(), at::kInt)};
  c10d::BroadcastOptions options;
  options.rootRank = context.size() - 1;
  options.asyncOp = false;
  group->broadcast(tensors, options);
  CHECK_SAME(tensors[0], at::full({3'000'001}, context.size() - 1, at::kInt));
  group->shutdown();
}

RMPI_TEST(collectives, all_gather) {
  const auto group = context.make_group();
  for (const auto dtype : moving_dtypes()) {
    Tensors inputs{sample(context.rank(), {4, 2}, dtype)};
    std::vector<Tensors> outputs(1);
    for (int rank = 0; rank < context.size(); ++rank) outputs[0].push_back(at::zeros({4, 2}, dtype));
    const auto work = group->allgather(outputs, inputs);
    work->wait();
    const auto expected = samples(context.size(), {4, 2}, dtype);
    for (int rank = 0; rank < context.size(); ++rank) CHECK_SAME(outputs[0][rank], expected[rank]);
    CHECK_TRUE(work->result().size() == static_cast<std::size_t>(context.size()));
  }
  group->shutdown();
}

RMPI_TEST(collectives, all_gather_of_different_sizes) {
  const auto group = context.make_group();
  Tensors inputs{sample(context.rank(), {context.rank() * 3}, at::kLong)};
  std::vector<Tensors> outputs(1);
  for (int rank = 0; rank < context.size(); ++rank) outputs[0].push_back(at::zeros({rank * 3}, at::kLong));
  group->allgather(outputs, inputs)->wait();
  for (int rank = 0; rank < context.size(); ++rank) CHECK_SAME(outputs[0][rank], sample(rank, {rank * 3}, at::kLong));
  group->shutdown();
}

RMPI_TEST(collectives, all_gather_single) {
  const auto group = context.make_group();
  auto input = sample(context.rank(), {2, 3}, at::kShort);
  auto output = at::zeros({context.size() * 2, 3}, at::kShort);
  group->TORCH_RMPI_ALL_GATHER_SINGLE(output, input)->wait();
  CHECK_SAME(output, at::cat(samples(context.size(), {2, 3}, at::kShort)));
  // In place: the input is this rank's part of the output.
  auto whole = at::zeros({context.size(), 5}, at::kFloat);
  auto part = whole[context.rank()];
  part.copy_(sample(context.rank(), {5}));
  group->TORCH_RMPI_ALL_GATHER_SINGLE(whole, part)->wait();
  CHECK_SAME(whole, at::stack(samples(context.size(), {5}, at::kFloat)));
  group->shutdown();
}

RMPI_TEST(collectives, gather) {
  const auto group = context.make_group();
  for (int root = 0; root < context.size(); ++root) {
    const bool is_root = context.rank() == root;
    c10d::GatherOptions options;
    options.rootRank = root;
    Tensors inputs{sample(context.rank(), {6}, at::kBFloat16)};
    std::vector<Tensors> outputs;
    if (is_root) outputs.emplace_back();
    for (int rank = 0; is_root && rank < context.size(); ++rank) outputs[0].push_back(at::zeros({6}, at::kBFloat16));
    group->gather(outputs, inputs, options)->wait();
    const auto expected = samples(context.size(), {6}, at::kBFloat16);
    for (int rank = 0; is_root && rank < context.size(); ++rank) CHECK_SAME(outputs[0][rank], expected[rank]);

    auto single = is_root ? at::zeros({context.size() * 6}, at::kBFloat16) : at::Tensor();
    group->gather_single(single, inputs[0], options)->wait();
    if (is_root) CHECK_SAME(single, at::cat(expected));
  }
  group->shutdown();
}

RMPI_TEST(collectives, scatter) {
  const auto group = context.make_group();
  for (int root = 0; root < context.size(); ++root) {
    c10d::ScatterOptions options;
    options.rootRank = root;
    Tensors outputs{at::zeros({3}, at::kByte)};
    std::vector<Tensors> inputs;
    if (context.rank() == root) inputs.push_back(samples(context.size(), {3}, at::kByte));
    group->scatter(outputs, inputs, options)->wait();
    CHECK_SAME(outputs[0], sample(context.rank(), {3}, at::kByte));
  }
  group->shutdown();
}

RMPI_TEST(collectives, all_to_all) {
  const auto group = context.make_group();
  const int rank = context.rank();
  const int size = context.size();
  // Rank a sends rank b the tensor sample(10 a + b), of a + 2 b elements.
  Tensors inputs;
  Tensors outputs;
  for (int peer = 0; peer < size; ++peer) {
    inputs.push_back(sample(10 * rank + peer, {rank + 2 * peer}, at::kDouble));
    outputs.push_back(at::zeros({peer + 2 * rank}, at::kDouble));
  }
  group->alltoall(outputs, inputs)->wait();
  for (int peer = 0; peer < size; ++peer) {
    CHECK_SAME(outputs[peer], sample(10 * peer + rank, {peer + 2 * rank}, at::kDouble));
  }
  group->shutdown();
}

RMPI_TEST(collectives, all_to_all_single) {
  const auto group = context.make_group();
  const int rank = context.rank();
  const int size = context.size();
  std::vector<int64_t> even;
  Tensors parts;
  for (int peer = 0; peer < size; ++peer) parts.push_back(sample(10 * rank + peer, {2, 3}));
  auto input = at::cat(parts);
  auto output = at::zeros_like(input);
  group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, input, even, even)->wait();
  for (int peer = 0; peer < size; ++peer) {
    CHECK_SAME(output.slice(0, 2 * peer, 2 * peer + 2), sample(10 * peer + rank, {2, 3}));
  }

  // Rank a sends rank b a + b rows.
  std::vector<int64_t> rows;
  parts.clear();
  for (int peer = 0; peer < size; ++peer) {
    rows.push_back(rank + peer);
    parts.push_back(sample(10 * rank + peer, {rank + peer, 4}));
  }
  input = at::cat(parts);
  output = at::zeros_like(input);
  group->TORCH_RMPI_ALL_TO_ALL_SINGLE(output, input, rows, rows)->wait();
  std::int64_t begin = 0;
  for (int peer = 0; peer < size; ++peer) {
    CHECK_SAME(output.slice(0, begin, begin + rows[peer]), sample(10 * peer + rank, {rank + peer, 4}));
    begin += rows[peer];
  }
  group->shutdown();
}

RMPI_TEST(collectives, tensors_that_are_not_contiguous) {
  const auto group = context.make_group();
  const int size = context.size();
  Tensors tensors{sample(context.rank(), {4, 6}).t()};
  group->broadcast(tensors)->wait();
  CHECK_SAME(tensors[0], sample(0, {4, 6}).t());

  auto every_second = at::zeros({2 * size});
  auto output = every_second.slice(0, 0, c10::nullopt, 2);
  auto input = sample(context.rank(), {1});
  group->TORCH_RMPI_ALL_GATHER_SINGLE(output, input)->wait();
  for (int rank = 0; rank < size; ++rank) {
    CHECK_TRUE(every_second[2 * rank].item<float>() == sample_value(rank, 0));
    CHECK_TRUE(every_second[2 * rank + 1].item<float>() == 0, "a gap was written to");
  }

  // The values of a conjugated view are not those in its memory.
  Tensors conjugated{at::complex(sample(0, {3}), sample(1, {3})).conj()};
  const auto expected = conjugated[0].resolve_conj().clone();
  group->broadcast(conjugated)->wait();
  CHECK_SAME(conjugated[0], expected);
  group->shutdown();
}

RMPI_TEST(collectives, leaf_that_requires_grad) {
  const auto group = context.make_group();
  Tensors tensors{sample(context.rank(), {3}).requires_grad_()};
  group->broadcast(tensors)->wait();
  CHECK_SAME(tensors[0].detach(), sample(0, {3}));
  Tensors transposed{sample(context.rank(), {3, 2}).t().requires_grad_()};
  group->broadcast(transposed)->wait();
  CHECK_SAME(transposed[0].detach(), sample(0, {3, 2}).t());
  CHECK_TRUE(transposed[0].is_leaf());
  group->shutdown();
}

RMPI_TEST(collectives, barrier) {
  const auto group = context.make_group();
  for (int round = 0; round < 10; ++round) group->barrier()->wait();
  group->monitoredBarrier();
  group->monitoredBarrier(c10d::BarrierOptions(), true);
  CHECK_TRUE(group->getSequenceNumberForGroup() >= 10);
  group->shutdown();
}
