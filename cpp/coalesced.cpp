// The coalesced forms: one operation per tensor, one Work for all of them. Everything is checked before the first is
// issued.
#include <utility>

#include <c10/util/irange.h>

#include "core.hpp"

namespace rmpi {

using bridge::Operation;
using c10d::OpType;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using Batch = c10::intrusive_ptr<WorkRMPI>;

WorkPtr ProcessGroupRMPI::allreduce_coalesced(std::vector<at::Tensor>& tensors,
                                              const c10d::AllreduceCoalescedOptions& opts) {
  const auto check = core().check("all_reduce_coalesced");
  check.same_length("the tensor list", tensors.size(), "itself", tensors.size());
  for (const auto& tensor : tensors) check.output("a tensor", tensor);
  const auto op = reduction("all_reduce_coalesced", opts.reduceOp, tensors);

  return core().coalesce(OpType::ALLREDUCE_COALESCED, "rmpi:all_reduce", tensors, opts.asyncOp,
                         [&](const Batch& batch) {
                           for (const auto& tensor : tensors) {
                             Launch launch(Operation::AllReduce, OpType::ALLREDUCE, nullptr, opts.timeout, true);
                             launch.batch = batch;
                             launch.call.dtype = data_type(tensor);
                             launch.set_reduction(op);
                             launch.give(tensor);
                             const auto region = write_region(launch.staging.in_place(tensor));
                             launch.inputs.push_back(region);
                             launch.outputs.push_back(region);
                             core().issue(std::move(launch));
                           }
                         });
}

WorkPtr ProcessGroupRMPI::allgather_coalesced(std::vector<std::vector<at::Tensor>>& output_lists,
                                              std::vector<at::Tensor>& inputs, const c10d::AllgatherOptions& opts) {
  // output_lists[rank][index] receives that rank's inputs[index].
  const auto check = core().check("all_gather_coalesced");
  TORCH_CHECK_VALUE(output_lists.size() == static_cast<std::size_t>(size_),
                    "rmpi: all_gather_coalesced: there must be "
                    "one output list for each of the ",
                    size_, " ranks of the group, but there are ", output_lists.size(), ".");
  for (const auto& input : inputs) check.input("an input", input);
  for (const auto& outputs : output_lists) {
    check.same_length("the input list", inputs.size(), "each output list", outputs.size());
    for (const auto index : c10::irange(inputs.size())) {
      check.output("an output", outputs[index]);
      check.same_dtype("an output list", outputs[index], "its input", inputs[index]);
    }
  }
  for (const auto index : c10::irange(inputs.size())) {
    check.same_shape("this rank's output", output_lists[rank_][index], "its input", inputs[index]);
  }

  return core().coalesce(OpType::ALLGATHER_COALESCED, "rmpi:all_gather", inputs, opts.asyncOp, [&](const Batch& batch) {
    for (const auto index : c10::irange(inputs.size())) {
      Launch launch(Operation::AllGather, OpType::ALLGATHER, nullptr, opts.timeout, true);
      launch.batch = batch;
      launch.call.dtype = data_type(inputs[index]);
      launch.inputs.push_back(read_region(launch.staging.input(inputs[index])));
      for (const auto& outputs : output_lists) {
        launch.give(outputs[index]);
        launch.outputs.push_back(write_region(launch.staging.output(outputs[index])));
      }
      core().issue(std::move(launch));
    }
  });
}

WorkPtr ProcessGroupRMPI::TORCH_RMPI_ALL_GATHER_SINGLE_COALESCED(std::vector<at::Tensor>& outputs,
                                                                 std::vector<at::Tensor>& inputs,
                                                                 const c10d::AllgatherOptions& opts) {
  const auto check = core().check("all_gather_single_coalesced");
  check.same_length("the input list", inputs.size(), "the output list", outputs.size());
  for (const auto index : c10::irange(inputs.size())) {
    check.input("an input", inputs[index]);
    check.output("an output", outputs[index]);
    check.same_dtype("the output", outputs[index], "its input", inputs[index]);
    check.holds_all_parts("the output", outputs[index], "its input", inputs[index]);
  }

  return core().coalesce(OpType::COALESCED, "rmpi:all_gather", inputs, opts.asyncOp, [&](const Batch& batch) {
    for (const auto index : c10::irange(inputs.size())) {
      Launch launch(Operation::AllGather, OpType::_ALLGATHER_BASE, nullptr, opts.timeout, true);
      launch.batch = batch;
      launch.call.dtype = data_type(inputs[index]);
      launch.give(outputs[index]);
      launch.inputs.push_back(read_region(launch.staging.input(inputs[index])));
      launch.outputs = split_region(write_region(launch.staging.output(outputs[index])), size_);
      core().issue(std::move(launch));
    }
  });
}

WorkPtr ProcessGroupRMPI::TORCH_RMPI_REDUCE_SCATTER_SINGLE_COALESCED(std::vector<at::Tensor>& outputs,
                                                                     std::vector<at::Tensor>& inputs,
                                                                     const c10d::ReduceScatterOptions& opts) {
  const auto check = core().check("reduce_scatter_single_coalesced");
  check.same_length("the input list", inputs.size(), "the output list", outputs.size());
  for (const auto index : c10::irange(inputs.size())) {
    check.input("an input", inputs[index]);
    check.output("an output", outputs[index]);
    check.same_dtype("the input", inputs[index], "its output", outputs[index]);
    check.holds_all_parts("the input", inputs[index], "its output", outputs[index]);
  }
  const auto op = reduction("reduce_scatter_single_coalesced", opts.reduceOp, outputs);

  return core().coalesce(
      OpType::REDUCE_SCATTER_TENSOR_COALESCED, "rmpi:reduce_scatter", inputs, opts.asyncOp, [&](const Batch& batch) {
        for (const auto index : c10::irange(inputs.size())) {
          Launch launch(Operation::ReduceScatter, OpType::_REDUCE_SCATTER_BASE, nullptr, opts.timeout, true);
          launch.batch = batch;
          launch.call.dtype = data_type(inputs[index]);
          launch.set_reduction(op);
          launch.give(outputs[index]);
          launch.inputs = split_region(read_region(launch.staging.input(inputs[index])), size_);
          launch.outputs.push_back(write_region(launch.staging.output(outputs[index])));
          core().issue(std::move(launch));
        }
      });
}

}  // namespace rmpi
