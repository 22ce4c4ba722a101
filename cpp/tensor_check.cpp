#include "tensor_check.hpp"

#include <array>
#include <numeric>
#include <string>

#include <ATen/ATen.h>
#include <ATen/MemoryOverlap.h>
#include <c10/util/Exception.h>
#include <c10/util/irange.h>

#include "errors.hpp"

namespace rmpi {

bridge::DataType data_type(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kHalf:
      return bridge::DataType::Float16;
    case at::kBFloat16:
      return bridge::DataType::BFloat16;
    case at::kFloat:
      return bridge::DataType::Float32;
    case at::kDouble:
      return bridge::DataType::Float64;
    case at::kComplexFloat:
      return bridge::DataType::Complex64;
    case at::kComplexDouble:
      return bridge::DataType::Complex128;
    case at::kByte:
      return bridge::DataType::UInt8;
    case at::kChar:
      return bridge::DataType::Int8;
    case at::kUInt16:
      return bridge::DataType::UInt16;
    case at::kShort:
      return bridge::DataType::Int16;
    case at::kUInt32:
      return bridge::DataType::UInt32;
    case at::kInt:
      return bridge::DataType::Int32;
    case at::kUInt64:
      return bridge::DataType::UInt64;
    case at::kLong:
      return bridge::DataType::Int64;
    case at::kBool:
      return bridge::DataType::Bool;
    default:
      return bridge::DataType::Bytes;
  }
}

namespace {

double premul_factor(const char* operation, const c10d::ReduceOp& op) {
  const auto* supplement = dynamic_cast<const c10d::NCCLPreMulSumSupplement*>(op.supplement_.get());
  TORCH_CHECK_VALUE(supplement != nullptr, "rmpi: ", operation,
                    ": PREMUL_SUM needs a factor; make the op with torch.distributed._make_nccl_premul_sum(factor).");
  if (!supplement->tensor_factor.defined()) return supplement->double_factor;
  TORCH_CHECK_VALUE(supplement->tensor_factor.numel() == 1, "rmpi: ", operation,
                    ": the factor of PREMUL_SUM must have one element, but it has ", supplement->tensor_factor.numel(),
                    ".");
  TORCH_CHECK_TYPE(!supplement->tensor_factor.is_complex(), "rmpi: ", operation,
                   ": the factor of PREMUL_SUM must be real, but it is ", supplement->tensor_factor.scalar_type(), ".");
  return supplement->tensor_factor.item().toDouble();
}

const char* op_name(const c10d::ReduceOp& op) {
  constexpr std::array<const char*, 9> names = {"SUM",  "AVG", "PRODUCT", "MIN",       "MAX",
                                                "BAND", "BOR", "BXOR",    "PREMUL_SUM"};
  return static_cast<std::size_t>(op.op_) < names.size() ? names[op.op_] : "an unknown op";
}

}  // namespace

namespace {

Reduction translate(const char* operation, const c10d::ReduceOp& op) {
  switch (op.op_) {
    case c10d::ReduceOp::SUM:
      return {bridge::ReduceOp::Sum, 1};
    case c10d::ReduceOp::AVG:
      return {bridge::ReduceOp::Avg, 1};
    case c10d::ReduceOp::PRODUCT:
      return {bridge::ReduceOp::Product, 1};
    case c10d::ReduceOp::MIN:
      return {bridge::ReduceOp::Min, 1};
    case c10d::ReduceOp::MAX:
      return {bridge::ReduceOp::Max, 1};
    case c10d::ReduceOp::BAND:
      return {bridge::ReduceOp::BitAnd, 1};
    case c10d::ReduceOp::BOR:
      return {bridge::ReduceOp::BitOr, 1};
    case c10d::ReduceOp::BXOR:
      return {bridge::ReduceOp::BitXor, 1};
    case c10d::ReduceOp::PREMUL_SUM:
      return {bridge::ReduceOp::PremulSum, premul_factor(operation, op)};
    default:
      TORCH_CHECK_VALUE(false, "rmpi: ", operation, ": unknown reduce op ", static_cast<int>(op.op_),
                        "; use one of SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR, PREMUL_SUM.");
  }
}

}  // namespace

Reduction reduction(const char* operation, const c10d::ReduceOp& op, TensorList tensors) {
  const auto translated = translate(operation, op);
  for (const auto& tensor : tensors) {
    // The core knows which dtype has which op, but no names for these.
    TORCH_CHECK_TYPE(data_type(tensor) != bridge::DataType::Bytes, "rmpi: ", operation, ": ", op_name(op),
                     " is not defined for ", c10::getDtypeNames(tensor.scalar_type()).first,
                     ": elements of this dtype can be moved but not reduced.");
    call_core([&] { bridge::check_reduction(data_type(tensor), translated.op); });
  }
  return translated;
}

void Check::cpu(const char* argument, const at::Tensor& tensor) const {
  TORCH_CHECK_VALUE(tensor.defined(), "rmpi: ", operation_, ": ", argument,
                    " is an undefined tensor (None in Python).");
  TORCH_CHECK_VALUE(tensor.device().is_cpu(), "rmpi: ", operation_, ": ", argument, " is on device ", tensor.device(),
                    ", but rmpi handles CPU tensors. Move it with .cpu(), or give the group a backend for that device, "
                    "for example init_process_group(\"cpu:rmpi,cuda:nccl\").");
}

void Check::sparse(const char* argument, const at::Tensor& tensor) const {
  cpu(argument, tensor);
  TORCH_CHECK_VALUE(tensor.layout() == at::kSparse, "rmpi: ", operation_, ": ", argument, " has layout ",
                    tensor.layout(), ", but it must be a sparse COO tensor.");
}

void Check::input(const char* argument, const at::Tensor& tensor) const {
  cpu(argument, tensor);
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "rmpi: ", operation_, ": ", argument, " has layout ",
                    tensor.layout(), ", but this operation takes dense tensors; convert it with .to_dense().");
}

void Check::output(const char* argument, const at::Tensor& tensor) const {
  input(argument, tensor);
  TORCH_CHECK_VALUE(at::has_internal_overlap(tensor) != at::MemOverlap::Yes, "rmpi: ", operation_, ": ", argument,
                    " is written to, but several of its elements share memory (an expanded tensor); pass .clone().");
}

const at::Tensor& Check::single(const char* argument, const std::vector<at::Tensor>& tensors) const {
  TORCH_CHECK_VALUE(tensors.size() == 1, "rmpi: ", operation_, ": ", argument,
                    " must hold exactly one tensor, but it "
                    "holds ",
                    tensors.size(), ".");
  return tensors.front();
}

const std::vector<at::Tensor>& Check::single_list(const char* argument,
                                                  const std::vector<std::vector<at::Tensor>>& lists) const {
  TORCH_CHECK_VALUE(lists.size() == 1, "rmpi: ", operation_, ": ", argument,
                    " must hold exactly one list of tensors, "
                    "but it holds ",
                    lists.size(), ".");
  one_per_rank(argument, lists.front());
  return lists.front();
}

void Check::one_per_rank(const char* argument, const std::vector<at::Tensor>& tensors) const {
  TORCH_CHECK_VALUE(tensors.size() == static_cast<std::size_t>(size_), "rmpi: ", operation_, ": ", argument,
                    " must hold one tensor for each of the ", size_, " ranks of the group, but it holds ",
                    tensors.size(), ".");
}

void Check::empty_off_root(const char* argument, std::size_t count, std::int64_t root) const {
  TORCH_CHECK_VALUE(count == 0, "rmpi: ", operation_, ": ", argument, " must be empty on rank ", rank_,
                    " because the root is rank ", root, ".");
}

void Check::same_length(const char* first, std::size_t first_count, const char* second,
                        std::size_t second_count) const {
  TORCH_CHECK_VALUE(first_count == second_count, "rmpi: ", operation_, ": ", first, " and ", second,
                    " must have the same length, but they have ", first_count, " and ", second_count, ".");
  TORCH_CHECK_VALUE(first_count > 0, "rmpi: ", operation_, ": ", first, " must hold at least one tensor.");
}

void Check::same_dtype(const char* argument, TensorList tensors, const char* reference_name,
                       const at::Tensor& reference) const {
  for (const auto index : c10::irange(tensors.size())) {
    TORCH_CHECK_TYPE(tensors[index].scalar_type() == reference.scalar_type(), "rmpi: ", operation_, ": tensor ", index,
                     " of ", argument, " has dtype ", tensors[index].scalar_type(), ", but ", reference_name, " has ",
                     reference.scalar_type(), "; they must be the same.");
  }
}

void Check::same_shape(const char* argument, const at::Tensor& tensor, const char* reference_name,
                       const at::Tensor& reference) const {
  TORCH_CHECK_VALUE(tensor.sizes() == reference.sizes(), "rmpi: ", operation_, ": ", argument, " has shape ",
                    tensor.sizes(), ", but ", reference_name, " has shape ", reference.sizes(),
                    "; they must be the same.");
}

void Check::holds_all_parts(const char* whole_name, const at::Tensor& whole, const char* part_name,
                            const at::Tensor& part) const {
  TORCH_CHECK_VALUE(whole.numel() == part.numel() * size_, "rmpi: ", operation_, ": ", whole_name, " has ",
                    whole.numel(), " elements (shape ", whole.sizes(), "), but it must have ", size_,
                    " (the group's size) times the ", part.numel(), " of ", part_name, " (shape ", part.sizes(), ").");
}

void Check::root(std::int64_t root, std::int64_t root_tensor) const {
  TORCH_CHECK_VALUE(root >= 0 && root < size_, "rmpi: ", operation_, ": invalid root rank ", root,
                    "; the group has ranks 0 to ", size_ - 1, ".");
  TORCH_CHECK_VALUE(root_tensor == 0, "rmpi: ", operation_, ": invalid root tensor ", root_tensor,
                    "; there is one tensor per rank, so it must be 0.");
}

void Check::peer(const char* argument, std::int64_t rank) const {
  TORCH_CHECK_VALUE(rank >= 0 && rank < size_, "rmpi: ", operation_, ": invalid ", argument, " rank ", rank,
                    "; the group has ranks 0 to ", size_ - 1, ".");
}

void Check::tag(int tag) const {
  TORCH_CHECK_VALUE(tag >= 0, "rmpi: ", operation_, ": invalid tag ", tag, "; a tag is 0 or greater.");
}

c10::SmallVector<std::size_t, 8> Check::splits(const char* argument, const std::vector<std::int64_t>& sizes,
                                               const at::Tensor& tensor) const {
  TORCH_CHECK_VALUE(tensor.dim() > 0, "rmpi: ", operation_, ": ", argument,
                    " is a tensor of no dimension, but it is split along dimension 0; pass .view(1).");
  const auto rows = tensor.size(0);
  c10::SmallVector<std::size_t, 8> bytes(size_, 0);
  if (sizes.empty()) {
    TORCH_CHECK_VALUE(rows % size_ == 0, "rmpi: ", operation_, ": dimension 0 of ", argument, " (", rows,
                      ") does not divide equally across the group size (", size_, "); pass split sizes.");
    bytes.assign(size_, tensor.nbytes() / size_);
    return bytes;
  }
  TORCH_CHECK_VALUE(sizes.size() == static_cast<std::size_t>(size_), "rmpi: ", operation_, ": ", sizes.size(),
                    " split sizes for ", argument, ", but the group has ", size_, " ranks.");
  for (const auto size : sizes) {
    TORCH_CHECK_VALUE(size >= 0, "rmpi: ", operation_, ": split size ", size, " for ", argument, " is negative.");
  }
  const auto sum = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  TORCH_CHECK_VALUE(sum == rows, "rmpi: ", operation_, ": the split sizes for ", argument, " add up to ", sum,
                    ", but its dimension 0 is ", rows, ".");
  const auto row_bytes = rows == 0 ? std::size_t{0} : tensor.nbytes() / static_cast<std::size_t>(rows);
  for (const auto index : c10::irange(sizes.size())) bytes[index] = row_bytes * static_cast<std::size_t>(sizes[index]);
  return bytes;
}

void Check::same_own_part(std::size_t input_bytes, std::size_t output_bytes) const {
  TORCH_CHECK_VALUE(input_bytes == output_bytes, "rmpi: ", operation_, ": rank ", rank_, " sends itself ", input_bytes,
                    " bytes but expects ", output_bytes,
                    " bytes from itself; the input's and the output's part of "
                    "this rank must be the same size.");
}

}  // namespace rmpi
