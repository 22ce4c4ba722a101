// The memory of one operation: contiguous buffers for tensors that are not, and what keeps all of it alive.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

using Regions = c10::SmallVector<bridge::Region, 4>;

/// Owns the memory that an operation reads or writes, from the call until MPI has let go of it, even if a tensor is
/// given other memory meanwhile (`tensor.data = ...`).
class Staging {
 public:
  /// A contiguous tensor with the values of `tensor`, to be read.
  at::Tensor input(const at::Tensor& tensor);
  /// A contiguous tensor to be written; `copy_back` moves it into `tensor` if it is not the same memory.
  at::Tensor output(const at::Tensor& tensor);
  /// The same with the values of `tensor` in it.
  at::Tensor in_place(const at::Tensor& tensor);

  /// Copies what was received into the caller's non-contiguous tensors. Runs on whichever thread finishes the
  /// operation.
  void copy_back();

 private:
  c10::SmallVector<c10::Storage, 4> kept_;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;
};

/// The memory of a contiguous tensor that is only read.
bridge::Region read_region(const at::Tensor& tensor);
/// The memory of a contiguous tensor that is written.
bridge::Region write_region(const at::Tensor& tensor);

/// `whole` cut into consecutive parts of these sizes in bytes.
Regions split_region(const bridge::Region& whole, c10::ArrayRef<std::size_t> bytes);
/// `whole` cut into `parts` consecutive parts of the same size.
Regions split_region(const bridge::Region& whole, std::size_t parts);

}  // namespace rmpi
