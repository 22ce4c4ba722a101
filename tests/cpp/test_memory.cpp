// Tensors that the other processes of the node can map.
#include <vector>

#include "harness.hpp"

using namespace test;

RMPI_TEST(memory, tensors_are_allocated_and_communicated) {
  const auto group = context.make_group();
  CHECK_TRUE(group->supportsTensorAlloc(0));
  const auto count = (3 << 20) + 5;
  Tensors inputs{group->allocateTensor(count, at::kFloat)};
  inputs[0].fill_(context.rank() + 1);
  auto whole = group->allocateTensor(count * context.size(), at::kFloat);
  group->_allgather_base(whole, inputs[0])->wait();
  for (int rank = 0; rank < context.size(); ++rank) {
    CHECK_SAME(whole.slice(0, rank * count, (rank + 1) * count), at::full({count}, static_cast<float>(rank + 1)));
  }
  group->allreduce(inputs)->wait();
  CHECK_SAME(inputs[0], at::full({count}, static_cast<float>(context.size() * (context.size() + 1) / 2)));
  group->shutdown();
}

RMPI_TEST(memory, tensors_may_outlive_their_group) {
  at::Tensor tensor;
  {
    const auto group = context.make_group();
    tensor = group->allocateTensor(1000, at::TensorOptions(at::kLong).requires_grad(false));
    group->shutdown();
  }
  tensor.fill_(7);
  CHECK_SAME(tensor, at::full({1000}, 7, at::kLong));
}

RMPI_TEST(memory, the_allocator_is_one_for_all_groups) {
  const auto group = context.make_group();
  const auto other = context.make_group();
  const auto allocator = group->getMemAllocator();
  CHECK_TRUE(allocator != nullptr && allocator == other->getMemAllocator());
  const auto before = group->getMemoryStats()["tensor_bytes"];
  {
    const auto data = allocator->allocate(4096);
    CHECK_TRUE(data.get() != nullptr && data.device().is_cpu());
    CHECK_TRUE(group->getMemoryStats()["tensor_bytes"] == before + 4096);
    CHECK_TRUE(allocator->allocate(0).get() == nullptr);
  }
  CHECK_TRUE(group->getMemoryStats()["tensor_bytes"] == before);
  group->shutdown();
}

RMPI_TEST(memory, what_cannot_be_allocated) {
  const auto group = context.make_group();
  CHECK_THROWS(c10::ValueError, "elements", group->allocateTensor(-1));
  CHECK_THROWS(c10::ValueError, "device", group->allocateTensor(1, at::TensorOptions(at::kMeta)));
  CHECK_THROWS(c10::ValueError, "layout", group->allocateTensor(1, at::TensorOptions(at::kSparse)));
  CHECK_THROWS(c10::ValueError, "pinned", group->allocateTensor(1, at::TensorOptions().pinned_memory(true)));
  group->shutdown();
}
