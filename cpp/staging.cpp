#include "staging.hpp"

#include <cstdint>

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

namespace rmpi {
namespace {

// Raw memory holds the values only if no conjugation or negation is pending on them.
bool is_plain(const at::Tensor& tensor) { return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg(); }

}  // namespace

at::Tensor Staging::input(const at::Tensor& tensor) {
  if (is_plain(tensor)) {
    kept_.push_back(tensor.storage());
    return tensor;
  }
  // Below autograd: a copy must not record a graph.
  const at::AutoDispatchBelowADInplaceOrView guard;
  auto buffer = tensor.contiguous().resolve_conj().resolve_neg();
  kept_.push_back(buffer.storage());
  return buffer;
}

at::Tensor Staging::output(const at::Tensor& tensor) {
  if (is_plain(tensor)) {
    kept_.push_back(tensor.storage());
    return tensor;
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  copies_.emplace_back(tensor, at::empty(tensor.sizes(), tensor.options().memory_format(at::MemoryFormat::Contiguous)));
  return copies_.back().second;
}

at::Tensor Staging::in_place(const at::Tensor& tensor) {
  auto buffer = output(tensor);
  if (!buffer.is_same(tensor)) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    buffer.copy_(tensor);
  }
  return buffer;
}

void Staging::copy_back() {
  if (copies_.empty()) return;
  const at::AutoDispatchBelowADInplaceOrView guard;
  for (auto& [tensor, buffer] : copies_) tensor.copy_(buffer);
}

bridge::Region read_region(const at::Tensor& tensor) {
  // The core takes inputs and outputs as the same type; it never writes to an input.
  auto* data = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(tensor.const_data_ptr()));
  return {data, tensor.nbytes()};
}

bridge::Region write_region(const at::Tensor& tensor) {
  return {static_cast<std::uint8_t*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

Regions split_region(const bridge::Region& whole, c10::ArrayRef<std::size_t> bytes) {
  Regions parts;
  parts.reserve(bytes.size());
  std::size_t offset = 0;
  for (const auto size : bytes) {
    parts.push_back({whole.data == nullptr ? nullptr : whole.data + offset, size});
    offset += size;
  }
  return parts;
}

Regions split_region(const bridge::Region& whole, std::size_t parts) {
  return split_region(whole, std::vector<std::size_t>(parts, whole.bytes / parts));
}

}  // namespace rmpi
