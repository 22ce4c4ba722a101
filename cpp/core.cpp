#include "core.hpp"

#include <utility>

#include "errors.hpp"

namespace rmpi {
namespace {

rust::Slice<const bridge::Region> as_slice(const Regions& regions) { return {regions.data(), regions.size()}; }

}  // namespace

Launch::Launch(bridge::Operation operation, c10d::OpType type, const char* title, std::chrono::milliseconds timeout,
               bool async_op)
    : call{}, type(type), title(title), async_op(async_op) {
  call.operation = operation;
  call.dtype = bridge::DataType::Bytes;
  call.reduce_op = bridge::ReduceOp::Sum;
  call.factor = 1;
  // c10d says "the group's default" with one negative value, the core with any.
  call.timeout_ms = timeout.count();
}

void Launch::set_reduction(const Reduction& reduction) {
  call.reduce_op = reduction.op;
  call.factor = reduction.factor;
}

ProcessGroupRMPI::Core::Core(rust::Box<bridge::Group> group, int rank, int size)
    : rank(rank), size(size), group(std::move(group)) {}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::issue(Launch launch) {
  owner.check(launch.title != nullptr ? launch.title : "a process group operation");
  const auto batch = launch.batch ? std::move(launch.batch) : open_batch();
  auto work =
      c10::make_intrusive<WorkRMPI>(rank, launch.type, launch.title, launch.profiled, std::move(launch.results));
  if (batch) batch->join_batch(*work);
  launch.call.waits = !launch.async_op && !batch;
  try {
    work->set_request(call_core([&] {
      return group->issue(launch.call, as_slice(launch.inputs), as_slice(launch.outputs),
                          work->completion(std::move(launch.staging), std::move(launch.epilogue)));
    }));
  } catch (...) {
    if (batch) batch->member_refused(*work);
    throw;
  }
  if (batch) {
    batch->member_issued(work);
  } else if (!launch.async_op) {
    work->wait();
  }
  return work;
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::coalesce(
    c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled, bool async_op,
    const std::function<void(const c10::intrusive_ptr<WorkRMPI>&)>& issue_all) {
  const auto outer = open_batch();
  auto work = c10::make_intrusive<WorkRMPI>(rank, type, title, profiled, WorkRMPI::Tensors());
  work->open_batch();
  if (outer) outer->join_batch(*work);
  try {
    issue_all(work);
  } catch (...) {
    // What has been issued goes on by itself; nobody gets the Work.
    if (outer) outer->member_refused(*work);
    throw;
  }
  if (outer) outer->member_issued(work);
  work->close_batch();
  if (!outer && !async_op) work->wait();
  return work;
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::open_batch() {
  if (open_batches_.load(std::memory_order_relaxed) == 0) return {};
  const std::lock_guard<std::mutex> lock(batches_mutex_);
  const auto found = batches_.find(std::this_thread::get_id());
  return found == batches_.end() ? c10::intrusive_ptr<WorkRMPI>() : found->second;
}

void ProcessGroupRMPI::Core::start_coalescing() {
  owner.check("startCoalescing");
  auto work = c10::make_intrusive<WorkRMPI>(rank, c10d::OpType::COALESCED, nullptr, at::ArrayRef<at::Tensor>(),
                                            WorkRMPI::Tensors());
  work->open_batch();
  const std::lock_guard<std::mutex> lock(batches_mutex_);
  // A batch that an exception left open is forgotten; its operations go on by themselves.
  std::swap(batches_[std::this_thread::get_id()], work);
  open_batches_.store(batches_.size(), std::memory_order_relaxed);
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::end_coalescing() {
  c10::intrusive_ptr<WorkRMPI> work;
  {
    const std::lock_guard<std::mutex> lock(batches_mutex_);
    const auto found = batches_.find(std::this_thread::get_id());
    TORCH_CHECK(found != batches_.end(), "rmpi: endCoalescing without startCoalescing on the same thread.");
    work = std::move(found->second);
    batches_.erase(found);
    open_batches_.store(batches_.size(), std::memory_order_relaxed);
  }
  work->close_batch();
  return work;
}

}  // namespace rmpi
