// The inside of a process group: what its files share and its users do not see.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/process_group_rmpi.hpp>

#include "ephemeral_timeout.hpp"
#include "fork_guard.hpp"
#include "observers.hpp"
#include "staging.hpp"
#include "tensor_check.hpp"
#include "work_rmpi.hpp"

namespace rmpi {

/// An operation that has been checked and is about to be issued. Holds references to the caller's arguments.
struct Launch {
  Launch(bridge::Operation operation, c10d::OpType type, const char* title, std::chrono::milliseconds timeout,
         bool async_op);

  void set_reduction(const Reduction& reduction);
  /// The Work gives these when it is done, after those given before.
  void give(TensorList tensors);

  bridge::Call call;
  c10d::OpType type;
  /// The profiler's event, a string literal; null for a member of a batch that has one.
  const char* title;
  c10::ArrayRef<at::Tensor> profiled;
  WorkRMPI::Results results;
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
  Core(rust::Box<bridge::Group> group, int rank, int size, std::shared_ptr<Observers> observers,
       std::shared_ptr<EphemeralTimeout> ephemeral_timeout);

  /// The checks of one call. If the call throws, the batch that startCoalescing opened on this thread takes no more:
  /// endCoalescing gives what is in it.
  class Call : public Check {
   public:
    Call(Core& core, const char* operation);
    Call(const Call&) = delete;
    ~Call();

   private:
    Core& core_;
    const int exceptions_;
  };

  Call check(const char* operation) { return Call(*this, operation); }

  /// Issues an operation, and waits for it unless it is asynchronous or in a batch.
  c10::intrusive_ptr<WorkRMPI> issue(Launch&& launch);

  /// Runs `issue_all`, which issues the members with `launch.batch` set to its argument, and returns one Work for them.
  c10::intrusive_ptr<WorkRMPI> coalesce(c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled,
                                        bool async_op,
                                        const std::function<void(const c10::intrusive_ptr<WorkRMPI>&)>& issue_all);

  /// Waits for pending operations and gives the communicators back, as ProcessGroupRMPI::shutdown.
  void shutdown();

  void start_coalescing();
  c10::intrusive_ptr<WorkRMPI> end_coalescing();

  void start_estimate();
  /// Microseconds.
  double end_estimate();
  /// Whether this thread's operations are only estimated.
  bool is_estimating() { return estimate() != nullptr; }

  const ForkGuard owner;
  const int rank;
  const int size;
  rust::Box<bridge::Group> group;
  const std::shared_ptr<Observers> observers;
  const std::shared_ptr<EphemeralTimeout> ephemeral_timeout;

 private:
  c10::intrusive_ptr<WorkRMPI> make_batch(c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled);
  /// The sum of this thread's estimate, if there is one.
  double* estimate();
  c10::intrusive_ptr<WorkRMPI> open_batch();
  /// Closes this thread's batch, if one is open.
  void close_batch();

  struct Batch {
    c10::intrusive_ptr<WorkRMPI> work;
    bool open;
  };

  // The batches that are open, and those that were closed and not ended, by thread (a number that no other thread ever
  // has). The count spares every other operation the lock; it is only exact for the thread's own batch, and that is the
  // one that matters, so relaxed ordering is enough.
  std::atomic<std::size_t> open_batches_{0};
  std::mutex batches_mutex_;
  std::unordered_map<std::uint64_t, Batch> batches_;

  // Estimates, likewise.
  std::atomic<std::size_t> open_estimates_{0};
  std::mutex estimates_mutex_;
  std::unordered_map<std::uint64_t, double> estimates_;
};

inline ProcessGroupRMPI::Core& ProcessGroupRMPI::core() const {
  if (C10_UNLIKELY(!core_)) throw_not_connected();
  return *core_;
}

}  // namespace rmpi
