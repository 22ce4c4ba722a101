// Argument checks, made before anything moves, and the translation of dtypes and reduce ops. What these refuse is
// refused with the same error on every rank that made the same mistake.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include <torch-rmpi/src/bridge.rs.h>

namespace rmpi {

using TensorList = c10::ArrayRef<at::Tensor>;

/// The dtype of the core; `Bytes` for those that move but do not reduce.
bridge::DataType data_type(const at::Tensor& tensor);

/// A reduce op and PREMUL_SUM's factor.
struct Reduction {
  bridge::ReduceOp op;
  double factor;
};
/// What `op` asks for; TypeError if a dtype among `tensors` does not have it.
Reduction reduction(const char* operation, const c10d::ReduceOp& op, TensorList tensors);

/// The checks of one call. `operation` is the name in messages; arguments are named by the caller.
class Check {
 public:
  Check(const char* operation, int rank, int size) : operation_(operation), rank_(rank), size_(size) {}

  /// A defined, dense tensor in CPU memory.
  void input(const char* argument, const at::Tensor& tensor) const;
  /// The same, and no two of its elements share memory.
  void output(const char* argument, const at::Tensor& tensor) const;
  /// A defined sparse COO tensor in CPU memory.
  void sparse(const char* argument, const at::Tensor& tensor) const;

  /// The one tensor of a list that must hold exactly one.
  const at::Tensor& single(const char* argument, const std::vector<at::Tensor>& tensors) const;
  /// The one list of a list of lists, with one tensor per rank.
  const std::vector<at::Tensor>& single_list(const char* argument,
                                             const std::vector<std::vector<at::Tensor>>& lists) const;
  /// One tensor per rank.
  void one_per_rank(const char* argument, const std::vector<at::Tensor>& tensors) const;
  /// Nothing, because this rank is not the root.
  void empty_off_root(const char* argument, std::size_t count, std::int64_t root) const;
  /// Two lists of the same length, at least one.
  void same_length(const char* first, std::size_t first_count, const char* second, std::size_t second_count) const;

  /// Every tensor of `tensors` has the dtype of `reference`: TypeError otherwise.
  void same_dtype(const char* argument, TensorList tensors, const char* reference_name,
                  const at::Tensor& reference) const;
  void same_shape(const char* argument, const at::Tensor& tensor, const char* reference_name,
                  const at::Tensor& reference) const;
  /// `whole` has as many elements as all ranks' `part`s together.
  void holds_all_parts(const char* whole_name, const at::Tensor& whole, const char* part_name,
                       const at::Tensor& part) const;

  void root(std::int64_t root, std::int64_t root_tensor = 0) const;
  void peer(const char* argument, std::int64_t rank) const;
  void tag(int tag) const;

  /// Splits dimension 0 of `tensor` as an all-to-all does; the sizes of the parts in bytes, one per rank.
  c10::SmallVector<std::size_t, 8> splits(const char* argument, const std::vector<std::int64_t>& sizes,
                                          const at::Tensor& tensor) const;
  /// What this rank sends itself is as large as what it receives from itself.
  void same_own_part(std::size_t input_bytes, std::size_t output_bytes) const;

 private:
  void cpu(const char* argument, const at::Tensor& tensor) const;

  const char* operation_;
  int rank_;
  int size_;
};

}  // namespace rmpi
