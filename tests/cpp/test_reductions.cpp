// all_reduce, reduce and reduce_scatter: dtypes and ops against plain loops.
#include <algorithm>
#include <cmath>

#include "harness.hpp"

using namespace test;
using c10d::ReduceOp;

namespace {

bool is_integer(at::ScalarType dtype) { return c10::isIntegralType(dtype, /*includeBool=*/false); }

double combine(ReduceOp::RedOpType op, double left, double right) {
  switch (op) {
    case ReduceOp::PRODUCT:
      return left * right;
    case ReduceOp::MIN:
      return std::min(left, right);
    case ReduceOp::MAX:
      return std::max(left, right);
    case ReduceOp::BAND:
      return static_cast<double>(static_cast<long>(left) & static_cast<long>(right));
    case ReduceOp::BOR:
      return static_cast<double>(static_cast<long>(left) | static_cast<long>(right));
    case ReduceOp::BXOR:
      return static_cast<double>(static_cast<long>(left) ^ static_cast<long>(right));
    default:
      return left + right;
  }
}

// The reduction of all ranks' samples, elements `first` to `first + count`.
at::Tensor reduced(int size, ReduceOp::RedOpType op, std::int64_t first, std::int64_t count, at::ScalarType dtype) {
  auto values = at::empty({count}, at::kDouble);
  for (std::int64_t index = 0; index < count; ++index) {
    double value = sample_value(0, first + index);
    for (int rank = 1; rank < size; ++rank) value = combine(op, value, sample_value(rank, first + index));
    if (op == ReduceOp::AVG) value /= size;
    values.data_ptr<double>()[index] = value;
  }
  return values.to(dtype);
}

bool defined_for(ReduceOp::RedOpType op, at::ScalarType dtype) {
  const bool bitwise = op == ReduceOp::BAND || op == ReduceOp::BOR || op == ReduceOp::BXOR;
  if (bitwise) return is_integer(dtype);
  if (op == ReduceOp::AVG) return !is_integer(dtype);
  return c10::isComplexType(dtype) ? op == ReduceOp::SUM || op == ReduceOp::PRODUCT : true;
}

const std::vector<at::ScalarType> kDtypes{
    at::kHalf, at::kBFloat16, at::kFloat, at::kDouble, at::kComplexFloat, at::kComplexDouble, at::kByte,
    at::kChar, at::kUInt16,   at::kShort, at::kUInt32, at::kInt,          at::kUInt64,        at::kLong};
const std::vector<ReduceOp::RedOpType> kOps{ReduceOp::SUM, ReduceOp::AVG,  ReduceOp::PRODUCT, ReduceOp::MIN,
                                            ReduceOp::MAX, ReduceOp::BAND, ReduceOp::BOR,     ReduceOp::BXOR};

// Sums of 3 ranks divided by 3 are rounded once; that may differ from double in the last place.
void check_close(const at::Tensor& actual, const at::Tensor& expected, ReduceOp::RedOpType op) {
  if (op != ReduceOp::AVG) {
    CHECK_SAME(actual, expected, "with op ", static_cast<int>(op));
    return;
  }
  CHECK_TRUE(actual.scalar_type() == expected.scalar_type());
  CHECK_TRUE(at::allclose(actual.to(at::kComplexDouble), expected.to(at::kComplexDouble), 1e-2, 1e-2), show(actual),
             show(expected));
}

}  // namespace

RMPI_TEST(reductions, all_reduce) {
  const auto group = context.make_group();
  for (const auto dtype : kDtypes) {
    for (const auto op : kOps) {
      if (!defined_for(op, dtype)) continue;
      for (const std::int64_t count : {0, 1, 1000}) {
        Tensors tensors{sample(context.rank(), {count}, dtype)};
        c10d::AllreduceOptions options;
        options.reduceOp = op;
        group->allreduce(tensors, options)->wait();
        check_close(tensors[0], reduced(context.size(), op, 0, count, dtype), op);
      }
    }
  }
  group->shutdown();
}

RMPI_TEST(reductions, all_reduce_of_bool) {
  const auto group = context.make_group();
  for (const auto op : {ReduceOp::SUM, ReduceOp::BOR, ReduceOp::MAX}) {
    Tensors tensors{at::zeros({context.size() + 1}, at::kBool)};
    tensors[0][context.rank()] = true;
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    group->allreduce(tensors, options)->wait();
    auto expected = at::ones({context.size() + 1}, at::kBool);
    expected[context.size()] = false;
    CHECK_SAME(tensors[0], expected);
  }
  group->shutdown();
}

RMPI_TEST(reductions, all_reduce_with_a_factor) {
  const auto group = context.make_group();
  for (const auto& op : {c10d::makePreMulSum(0.5), c10d::makePreMulSum(at::full({1}, 0.5))}) {
    Tensors tensors{sample(context.rank(), {9})};
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    group->allreduce(tensors, options)->wait();
    CHECK_SAME(tensors[0], reduced(context.size(), ReduceOp::SUM, 0, 9, at::kFloat) * 0.5);
  }
  group->shutdown();
}

RMPI_TEST(reductions, all_reduce_of_many_elements) {
  const auto group = context.make_group();
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Tensors tensors{sample(context.rank(), {700'001}, dtype)};
    group->allreduce(tensors)->wait();
    CHECK_SAME(tensors[0], reduced(context.size(), ReduceOp::SUM, 0, 700'001, dtype));
  }
  group->shutdown();
}

RMPI_TEST(reductions, all_reduce_of_a_view) {
  const auto group = context.make_group();
  const auto whole = sample(context.rank(), {4, 5});
  Tensors tensors{whole.slice(1, 1, 3)};
  group->allreduce(tensors)->wait();
  const auto sum = reduced(context.size(), ReduceOp::SUM, 0, 20, at::kFloat).view({4, 5});
  CHECK_SAME(whole.slice(1, 1, 3), sum.slice(1, 1, 3));
  CHECK_SAME(whole.slice(1, 0, 1), sample(context.rank(), {4, 5}).slice(1, 0, 1));
  group->shutdown();
}

RMPI_TEST(reductions, reduce) {
  const auto group = context.make_group();
  for (int root = 0; root < context.size(); ++root) {
    Tensors tensors{sample(context.rank(), {11}, at::kInt)};
    c10d::ReduceOptions options;
    options.rootRank = root;
    options.reduceOp = ReduceOp::PRODUCT;
    group->reduce(tensors, options)->wait();
    CHECK_SAME(tensors[0], context.rank() == root ? reduced(context.size(), ReduceOp::PRODUCT, 0, 11, at::kInt)
                                                  : sample(context.rank(), {11}, at::kInt));
  }
  group->shutdown();
}

RMPI_TEST(reductions, reduce_scatter) {
  const auto group = context.make_group();
  const int rank = context.rank();
  const int size = context.size();
  const auto expected = reduced(size, ReduceOp::MAX, 4 * rank, 4, at::kDouble);
  auto input = sample(rank, {4 * size}, at::kDouble);
  auto output = at::zeros({4}, at::kDouble);
  c10d::ReduceScatterOptions options;
  options.reduceOp = ReduceOp::MAX;
  group->TORCH_RMPI_REDUCE_SCATTER_SINGLE(output, input, options)->wait();
  CHECK_SAME(output, expected);
  CHECK_SAME(input, sample(rank, {4 * size}, at::kDouble), "the input must stay as it is");

  Tensors outputs{at::zeros({4}, at::kDouble)};
  std::vector<Tensors> inputs{input.split(4)};
  group->reduce_scatter(outputs, inputs, options)->wait();
  CHECK_SAME(outputs[0], expected);

  // In place: the output is this rank's part of the input.
  auto part = input.slice(0, 4 * rank, 4 * rank + 4);
  group->TORCH_RMPI_REDUCE_SCATTER_SINGLE(part, input, options)->wait();
  CHECK_SAME(part, expected);
  group->shutdown();
}

RMPI_TEST(reductions, reduce_scatter_of_different_sizes) {
  const auto group = context.make_group();
  const int size = context.size();
  std::vector<Tensors> inputs(1);
  for (int rank = 0; rank < size; ++rank) inputs[0].push_back(sample(context.rank(), {rank + 1}));
  Tensors outputs{at::zeros({context.rank() + 1})};
  group->reduce_scatter(outputs, inputs)->wait();
  CHECK_SAME(outputs[0], reduced(size, ReduceOp::SUM, 0, context.rank() + 1, at::kFloat));
  group->shutdown();
}

RMPI_TEST(reductions, sparse_all_reduce) {
  const auto group = context.make_group();
  const int size = context.size();
  // Rank r has r + 1 entries: at (i, 0) for i <= r, each a row of 2 values.
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kComplexDouble}) {
    const auto count = context.rank() + 1;
    const auto indices = at::stack({at::arange(count, at::kLong), at::zeros({count}, at::kLong)});
    const auto values = at::ones({count, 2}, dtype);
    Tensors tensors{at::sparse_coo_tensor(indices, values, {size, 3, 2})};
    group->allreduce(tensors)->wait();
    auto expected = at::zeros({size, 3, 2}, dtype);
    for (int row = 0; row < size; ++row) expected[row][0].fill_(size - row);
    CHECK_SAME(tensors[0].to_dense(), expected);
    // The same by its own name.
    group->allreduce_sparse(tensors)->wait();
    CHECK_SAME(tensors[0].to_dense(), expected * size);
  }
  group->shutdown();
}
