// The collectives: each checks its arguments, names its memory and issues one operation.
#include <utility>

#include "core.hpp"

namespace rmpi {

using bridge::Operation;
using c10d::OpType;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

WorkPtr ProcessGroupRMPI::broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& opts) {
  const auto check = core().check("broadcast");
  const auto& tensor = check.single("tensors", tensors);
  check.root(opts.rootRank, opts.rootTensor);
  const bool is_root = opts.rootRank == rank_;
  // The root's tensor is not written, so it may be an expanded one.
  is_root ? check.input("the tensor", tensor) : check.output("the tensor", tensor);

  Launch launch(Operation::Broadcast, OpType::BROADCAST, "rmpi:broadcast", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(tensor);
  launch.call.root = opts.rootRank;
  launch.profiled = tensors;
  launch.give(tensors);
  launch.outputs.push_back(is_root ? read_region(launch.staging.input(tensor))
                                   : write_region(launch.staging.output(tensor)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& opts) {
  const auto check = core().check("all_reduce");
  const auto& tensor = check.single("tensors", tensors);
  if (tensor.defined() && tensor.layout() == at::kSparse) return allreduce_sparse(tensors, opts);
  check.output("the tensor", tensor);

  Launch launch(Operation::AllReduce, OpType::ALLREDUCE, "rmpi:all_reduce", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(tensor);
  launch.set_reduction(reduction("all_reduce", opts.reduceOp, tensor));
  launch.profiled = tensors;
  launch.give(tensors);
  const auto region = write_region(launch.staging.in_place(tensor));
  launch.inputs.push_back(region);
  launch.outputs.push_back(region);
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::reduce(std::vector<at::Tensor>& tensors, const c10d::ReduceOptions& opts) {
  const auto check = core().check("reduce");
  const auto& tensor = check.single("tensors", tensors);
  check.root(opts.rootRank, opts.rootTensor);
  const bool is_root = opts.rootRank == rank_;
  is_root ? check.output("the tensor", tensor) : check.input("the tensor", tensor);

  Launch launch(Operation::Reduce, OpType::REDUCE, "rmpi:reduce", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(tensor);
  launch.call.root = opts.rootRank;
  launch.set_reduction(reduction("reduce", opts.reduceOp, tensor));
  launch.profiled = tensors;
  launch.give(tensors);
  if (is_root) {
    const auto region = write_region(launch.staging.in_place(tensor));
    launch.inputs.push_back(region);
    launch.outputs.push_back(region);
  } else {
    launch.inputs.push_back(read_region(launch.staging.input(tensor)));
  }
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::allgather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                                    const c10d::AllgatherOptions& opts) {
  const auto check = core().check("all_gather");
  const auto& input = check.single("the input list", inputs);
  const auto& list = check.single_list("the output list", outputs);
  check.input("the input", input);
  for (const auto& output : list) check.output("an output", output);
  check.same_dtype("the output list", list, "the input", input);
  check.same_shape("this rank's output", list[rank_], "the input", input);

  Launch launch(Operation::AllGather, OpType::ALLGATHER, "rmpi:all_gather", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(input);
  launch.profiled = inputs;
  launch.give(list);
  launch.inputs.push_back(read_region(launch.staging.input(input)));
  for (const auto& output : list) launch.outputs.push_back(write_region(launch.staging.output(output)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::TORCH_RMPI_ALL_GATHER_SINGLE(at::Tensor& output, at::Tensor& input,
                                                       const c10d::AllgatherOptions& opts) {
  const auto check = core().check("all_gather_single");
  check.input("the input", input);
  check.output("the output", output);
  check.same_dtype("the output", output, "the input", input);
  check.holds_all_parts("the output", output, "the input", input);

  Launch launch(Operation::AllGather, OpType::_ALLGATHER_BASE, "rmpi:all_gather", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(input);
  launch.profiled = input;
  launch.give(output);
  launch.inputs.push_back(read_region(launch.staging.input(input)));
  launch.outputs = split_region(write_region(launch.staging.output(output)), size_);
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::gather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                                 const c10d::GatherOptions& opts) {
  const auto check = core().check("gather");
  check.root(opts.rootRank);
  const auto& input = check.single("the input list", inputs);
  check.input("the input", input);
  Launch launch(Operation::Gather, OpType::GATHER, "rmpi:gather", opts.timeout, opts.asyncOp);
  if (opts.rootRank == rank_) {
    const auto& list = check.single_list("the output list", outputs);
    for (const auto& output : list) check.output("an output", output);
    check.same_dtype("the output list", list, "the input", input);
    check.same_shape("this rank's output", list[rank_], "the input", input);
    launch.give(list);
    for (const auto& output : list) launch.outputs.push_back(write_region(launch.staging.output(output)));
  } else {
    check.empty_off_root("the output list", outputs.size(), opts.rootRank);
  }
  launch.call.dtype = data_type(input);
  launch.call.root = opts.rootRank;
  launch.profiled = inputs;
  launch.inputs.push_back(read_region(launch.staging.input(input)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::gather_single(at::Tensor& output, at::Tensor& input, const c10d::GatherOptions& opts) {
  const auto check = core().check("gather_single");
  check.root(opts.rootRank);
  check.input("the input", input);
  Launch launch(Operation::Gather, OpType::GATHER, "rmpi:gather", opts.timeout, opts.asyncOp);
  if (opts.rootRank == rank_) {
    check.output("the output", output);
    check.same_dtype("the output", output, "the input", input);
    check.holds_all_parts("the output", output, "the input", input);
    launch.give(output);
    launch.outputs = split_region(write_region(launch.staging.output(output)), size_);
  }
  launch.call.dtype = data_type(input);
  launch.call.root = opts.rootRank;
  launch.profiled = input;
  launch.inputs.push_back(read_region(launch.staging.input(input)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                                  const c10d::ScatterOptions& opts) {
  const auto check = core().check("scatter");
  check.root(opts.rootRank);
  const auto& output = check.single("the output list", outputs);
  check.output("the output", output);
  Launch launch(Operation::Scatter, OpType::SCATTER, "rmpi:scatter", opts.timeout, opts.asyncOp);
  if (opts.rootRank == rank_) {
    const auto& list = check.single_list("the input list", inputs);
    for (const auto& input : list) check.input("an input", input);
    check.same_dtype("the input list", list, "the output", output);
    check.same_shape("this rank's input", list[rank_], "the output", output);
    launch.profiled = list;
    for (const auto& input : list) launch.inputs.push_back(read_region(launch.staging.input(input)));
  } else {
    check.empty_off_root("the input list", inputs.size(), opts.rootRank);
  }
  launch.call.dtype = data_type(output);
  launch.call.root = opts.rootRank;
  launch.give(outputs);
  launch.outputs.push_back(write_region(launch.staging.output(output)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::reduce_scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                                         const c10d::ReduceScatterOptions& opts) {
  const auto check = core().check("reduce_scatter");
  const auto& output = check.single("the output list", outputs);
  const auto& list = check.single_list("the input list", inputs);
  check.output("the output", output);
  for (const auto& input : list) check.input("an input", input);
  check.same_dtype("the input list", list, "the output", output);
  check.same_shape("this rank's input", list[rank_], "the output", output);

  Launch launch(Operation::ReduceScatter, OpType::REDUCE_SCATTER, "rmpi:reduce_scatter", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(output);
  launch.set_reduction(reduction("reduce_scatter", opts.reduceOp, output));
  launch.profiled = list;
  launch.give(outputs);
  for (const auto& input : list) launch.inputs.push_back(read_region(launch.staging.input(input)));
  launch.outputs.push_back(write_region(launch.staging.output(output)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::TORCH_RMPI_REDUCE_SCATTER_SINGLE(at::Tensor& output, at::Tensor& input,
                                                           const c10d::ReduceScatterOptions& opts) {
  const auto check = core().check("reduce_scatter_single");
  check.input("the input", input);
  check.output("the output", output);
  check.same_dtype("the input", input, "the output", output);
  check.holds_all_parts("the input", input, "the output", output);

  Launch launch(Operation::ReduceScatter, OpType::_REDUCE_SCATTER_BASE, "rmpi:reduce_scatter", opts.timeout,
                opts.asyncOp);
  launch.call.dtype = data_type(output);
  launch.set_reduction(reduction("reduce_scatter_single", opts.reduceOp, output));
  launch.profiled = input;
  launch.give(output);
  launch.inputs = split_region(read_region(launch.staging.input(input)), size_);
  launch.outputs.push_back(write_region(launch.staging.output(output)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::TORCH_RMPI_ALL_TO_ALL_SINGLE(at::Tensor& output, at::Tensor& input,
                                                       std::vector<int64_t>& output_split_sizes,
                                                       std::vector<int64_t>& input_split_sizes,
                                                       const c10d::AllToAllOptions& opts) {
  const auto check = core().check("all_to_all_single");
  check.input("the input", input);
  check.output("the output", output);
  check.same_dtype("the output", output, "the input", input);
  const auto input_bytes = check.splits("the input", input_split_sizes, input);
  const auto output_bytes = check.splits("the output", output_split_sizes, output);
  check.same_own_part(input_bytes[rank_], output_bytes[rank_]);

  Launch launch(Operation::AllToAll, OpType::ALLTOALL_BASE, "rmpi:all_to_all", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(input);
  launch.profiled = input;
  launch.give(output);
  launch.inputs = split_region(read_region(launch.staging.input(input)), input_bytes);
  launch.outputs = split_region(write_region(launch.staging.output(output)), output_bytes);
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::alltoall(std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
                                   const c10d::AllToAllOptions& opts) {
  const auto check = core().check("all_to_all");
  check.one_per_rank("the input list", inputs);
  check.one_per_rank("the output list", outputs);
  for (const auto& input : inputs) check.input("an input", input);
  for (const auto& output : outputs) check.output("an output", output);
  check.same_dtype("the input list", inputs, "the first input", inputs.front());
  check.same_dtype("the output list", outputs, "the first input", inputs.front());
  check.same_own_part(inputs[rank_].nbytes(), outputs[rank_].nbytes());

  Launch launch(Operation::AllToAll, OpType::ALLTOALL, "rmpi:all_to_all", opts.timeout, opts.asyncOp);
  launch.call.dtype = data_type(inputs.front());
  launch.profiled = inputs;
  launch.give(outputs);
  for (const auto& input : inputs) launch.inputs.push_back(read_region(launch.staging.input(input)));
  for (const auto& output : outputs) launch.outputs.push_back(write_region(launch.staging.output(output)));
  return core().issue(std::move(launch));
}

WorkPtr ProcessGroupRMPI::barrier(const c10d::BarrierOptions& opts) {
  const auto check = core().check("barrier");
  return core().issue(Launch(Operation::Barrier, OpType::BARRIER, "rmpi:barrier", opts.timeout, opts.asyncOp));
}

void ProcessGroupRMPI::monitoredBarrier(const c10d::BarrierOptions& opts, bool wait_all_ranks) {
  const auto check = core().check("monitored_barrier");
  Launch launch(Operation::MonitoredBarrier, OpType::BARRIER, "rmpi:monitored_barrier", opts.timeout, false);
  launch.call.wait_all_ranks = wait_all_ranks;
  // Also inside startCoalescing: there is no Work to return.
  core().issue(std::move(launch))->wait();
}

}  // namespace rmpi
