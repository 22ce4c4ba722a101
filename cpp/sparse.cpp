// all_reduce of sparse COO tensors. Ranks hold different entries, so first all learn how many each has, and then all
// get every rank's entries and add them up themselves.
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/irange.h>

#include "core.hpp"

namespace rmpi {
namespace {

constexpr std::size_t kMaxDimensions = 12;
constexpr std::int64_t kIndexBytes = sizeof(std::int64_t);

/// What a rank tells the others of its tensor. All but the number of entries must agree.
struct Header {
  std::int64_t entries;
  std::int64_t dtype;
  std::int64_t sparse_dimensions;
  std::int64_t dimensions;
  std::array<std::int64_t, kMaxDimensions> sizes;

  bool fits(const Header& other) const {
    return dtype == other.dtype && sparse_dimensions == other.sparse_dimensions && dimensions == other.dimensions &&
           sizes == other.sizes;
  }
};

Header header_of(const at::Tensor& tensor) {
  Header header{tensor._nnz(), static_cast<std::int64_t>(tensor.scalar_type()), tensor.sparse_dim(), tensor.dim(), {}};
  std::copy(tensor.sizes().begin(), tensor.sizes().end(), header.sizes.begin());
  return header;
}

/// One rank's entries as bytes: the values, padded so that the indices behind them are aligned, then the indices.
class Entries {
 public:
  Entries(const at::Tensor& like, std::int64_t count) : count_(count), rows_(like.sparse_dim()) {
    value_sizes_.push_back(count);
    for (const auto dimension : c10::irange(like.sparse_dim(), like.dim())) {
      value_sizes_.push_back(like.size(dimension));
    }
    value_bytes_ = like.element_size();
    for (const auto size : value_sizes_) value_bytes_ *= size;
    index_offset_ = (value_bytes_ + kIndexBytes - 1) / kIndexBytes * kIndexBytes;
    bytes_ = at::empty({index_offset_ + rows_ * count_ * kIndexBytes}, at::kByte);
  }

  const at::Tensor& bytes() const { return bytes_; }
  at::Tensor values(at::ScalarType dtype) const {
    return bytes_.narrow(0, 0, value_bytes_).view(dtype).view(value_sizes_);
  }
  at::Tensor indices() const {
    return bytes_.narrow(0, index_offset_, rows_ * count_ * kIndexBytes).view(at::kLong).view({rows_, count_});
  }

 private:
  std::int64_t count_;
  std::int64_t rows_;
  std::vector<std::int64_t> value_sizes_;
  std::int64_t value_bytes_;
  std::int64_t index_offset_;
  at::Tensor bytes_;
};

void add_up(const at::Tensor& tensor, const std::vector<Entries>& entries) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  std::vector<at::Tensor> indices;
  std::vector<at::Tensor> values;
  for (const auto& part : entries) {
    indices.push_back(part.indices());
    values.push_back(part.values(tensor.scalar_type()));
  }
  // Entries at the same place add up when the tensor is coalesced.
  tensor.copy_(at::_sparse_coo_tensor_unsafe(at::cat(indices, 1), at::cat(values, 0), tensor.sizes()).coalesce());
}

}  // namespace

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::allreduce_sparse(std::vector<at::Tensor>& tensors,
                                                                  const c10d::AllreduceOptions& opts) {
  const auto check = core().check("sparse all_reduce");
  const auto& tensor = check.single("tensors", tensors);
  check.sparse("the tensor", tensor);
  TORCH_CHECK_NOT_IMPLEMENTED(
      !core().is_estimating(),
      "rmpi: sparse all_reduce: its time cannot be estimated, since it depends on what the other "
      "ranks have.");
  TORCH_CHECK_VALUE(tensor.dim() <= static_cast<std::int64_t>(kMaxDimensions),
                    "rmpi: sparse all_reduce: the tensor has ", tensor.dim(), " dimensions; at most ", kMaxDimensions,
                    " are supported.");
  TORCH_CHECK_TYPE(opts.reduceOp.op_ == c10d::ReduceOp::SUM,
                   "rmpi: sparse all_reduce: only SUM is defined for sparse tensors; convert with .to_dense().");

  at::Tensor local;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    local = tensor.coalesce();
  }
  const auto own = header_of(local);
  std::vector<Header> headers(size_);
  Launch counts(bridge::Operation::AllGather, c10d::OpType::_ALLREDUCE_SPARSE, nullptr, opts.timeout, true);
  const auto sent = at::empty({static_cast<std::int64_t>(sizeof(Header))}, at::kByte);
  const auto received = at::empty({size_, static_cast<std::int64_t>(sizeof(Header))}, at::kByte);
  std::memcpy(sent.mutable_data_ptr(), &own, sizeof(Header));
  counts.inputs.push_back(read_region(counts.staging.input(sent)));
  counts.outputs = split_region(write_region(counts.staging.output(received)), size_);
  // The second step needs the sizes, and it must be issued in this call to keep its place in the order of operations.
  core().issue(std::move(counts))->wait();
  std::memcpy(headers.data(), received.const_data_ptr(), sizeof(Header) * headers.size());
  for (const auto rank : c10::irange(headers.size())) {
    TORCH_CHECK_VALUE(own.fits(headers[rank]), "rmpi: sparse all_reduce: the tensors of rank ", rank_, " and rank ",
                      rank, " differ in shape, dtype or number of sparse dimensions; they must be the same.");
  }

  std::vector<Entries> entries;
  for (const auto& header : headers) entries.emplace_back(local, header.entries);
  entries[rank_].values(local.scalar_type()).copy_(local.values());
  entries[rank_].indices().copy_(local.indices());
  Launch launch(bridge::Operation::AllGather, c10d::OpType::_ALLREDUCE_SPARSE, "rmpi:sparse_all_reduce", opts.timeout,
                opts.asyncOp);
  launch.profiled = tensors;
  launch.give(tensors);
  launch.inputs.push_back(read_region(launch.staging.input(entries[rank_].bytes())));
  for (const auto& part : entries) launch.outputs.push_back(write_region(launch.staging.output(part.bytes())));
  launch.epilogue = [tensor, entries] { add_up(tensor, entries); };
  return core().issue(std::move(launch));
}

}  // namespace rmpi
