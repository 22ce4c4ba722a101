// Memory for tensors that other processes of the node can map, and what a group occupies.
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

#include <ATen/EmptyTensor.h>

#include "core.hpp"
#include "errors.hpp"

namespace rmpi {
namespace {

void release(void* address) { bridge::release_memory(static_cast<std::uint8_t*>(address)); }

}  // namespace

c10::DataPtr SharedAllocator::allocate(std::size_t bytes) {
  if (bytes == 0) return {nullptr, nullptr, &release, c10::kCPU};
  auto* const address = call_core([&] { return bridge::allocate_memory(bytes); });
  return {address, address, &release, c10::kCPU};
}

c10::DeleterFnPtr SharedAllocator::raw_deleter() const { return &release; }

void SharedAllocator::copy_data(void* dest, const void* src, std::size_t count) const {
  default_copy_data(dest, src, count);
}

std::shared_ptr<c10::Allocator> ProcessGroupRMPI::getMemAllocator() {
  // Never destroyed: tensors may be freed while the process exits.
  static auto* allocator = new std::shared_ptr<c10::Allocator>(std::make_shared<SharedAllocator>());
  return *allocator;
}

bool ProcessGroupRMPI::supportsTensorAlloc([[maybe_unused]] c10::DeviceIndex device) {
  return bridge::can_share_memory();
}

at::Tensor ProcessGroupRMPI::allocateTensor(long size, at::TensorOptions options) {
  TORCH_CHECK_VALUE(size >= 0, "rmpi: allocateTensor: a tensor of ", size, " elements; it needs 0 or more.");
  TORCH_CHECK_VALUE(options.device().is_cpu(), "rmpi: allocateTensor: the device is ", options.device(),
                    ", but other processes can map only memory of the CPU.");
  TORCH_CHECK_VALUE(options.layout() == at::kStrided, "rmpi: allocateTensor: the layout is ", options.layout(),
                    "; it has to be strided.");
  TORCH_CHECK_VALUE(!options.pinned_memory(), "rmpi: allocateTensor gives no pinned memory.");
  const auto allocator = getMemAllocator();
  auto tensor =
      at::Tensor(at::detail::empty_generic({size}, allocator.get(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                           c10::typeMetaToScalarType(options.dtype()), std::nullopt));
  return options.requires_grad() ? tensor.requires_grad_() : tensor;
}

std::unordered_map<std::string, std::uint64_t> ProcessGroupRMPI::getMemoryStats() {
  // A suspended group has the same names.
  std::unordered_map<std::string, std::uint64_t> stats{
      {"shared_bytes", 0}, {"own_shared_bytes", 0}, {"pending_operations", 0}};
  const auto take = [&](const rust::Vec<bridge::MemoryStat>& list) {
    for (const auto& stat : list) stats[std::string(stat.name)] = stat.value;
  };
  take(bridge::heap_stats());
  if (!core_) return stats;
  core_->owner.check("getMemoryStats");
  take(core_->group->memory_stats());
  return stats;
}

}  // namespace rmpi
