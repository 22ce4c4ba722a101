// The inside of a process group: what its files share and its users do not see.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "fork_guard.hpp"
#include "staging.hpp"
#include "tensor_check.hpp"
#include "work_rmpi.hpp"

namespace rmpi {

/// An operation that has been checked and is about to be issued. Holds references to the caller's arguments.
struct Launch {
  Launch(bridge::Operation operation, c10d::OpType type, const char* title, std::chrono::milliseconds timeout,
         bool async_op);

  void set_reduction(const Reduction& reduction);

  bridge::Call call;
  c10d::OpType type;
  /// The profiler's event, a string literal; null for a member of a batch that has one.
  const char* title;
  c10::ArrayRef<at::Tensor> profiled;
  WorkRMPI::Tensors results;
  Staging staging;
  Regions inputs;
  Regions outputs;
  Epilogue epilogue;
  /// False: the call waits.
  bool async_op;
  /// The batch to issue it in; null: the one that startCoalescing opened on this thread, if any.
  c10::intrusive_ptr<WorkRMPI> batch;
};

struct ProcessGroupRMPI::Core {
  Core(rust::Box<bridge::Group> group, int rank, int size);

  Check check(const char* operation) const { return Check(operation, rank, size); }

  /// Issues an operation, and waits for it unless it is asynchronous or in a batch.
  c10::intrusive_ptr<WorkRMPI> issue(Launch launch);

  /// Runs `issue_all`, which issues the members with `launch.batch` set to its argument, and returns one Work for them.
  c10::intrusive_ptr<WorkRMPI> coalesce(c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled,
                                        bool async_op,
                                        const std::function<void(const c10::intrusive_ptr<WorkRMPI>&)>& issue_all);

  void start_coalescing();
  c10::intrusive_ptr<WorkRMPI> end_coalescing();

  const ForkGuard owner;
  const int rank;
  const int size;
  rust::Box<bridge::Group> group;

 private:
  c10::intrusive_ptr<WorkRMPI> open_batch();

  // The batches that are open, by thread. The count spares every other operation the lock; it is only exact for the
  // thread's own batch, and that is the one that matters, so relaxed ordering is enough.
  std::atomic<std::size_t> open_batches_{0};
  std::mutex batches_mutex_;
  std::unordered_map<std::thread::id, c10::intrusive_ptr<WorkRMPI>> batches_;
};

}  // namespace rmpi
