// The one Work class: what a caller holds of an operation, or of several operations issued together.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/ivalue.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <torch-rmpi/src/bridge.rs.h>
#include <torch_rmpi/torch_version.hpp>

#include "fork_guard.hpp"
#include "staging.hpp"

namespace rmpi {

/// Runs on the finishing thread after the core has succeeded and before waiters are released; may throw.
using Epilogue = std::function<void()>;

/// An operation, or a batch of them (coalesced operations): a batch is done when all its members are.
///
/// isCompleted, isSuccess, exception, result and getFuture never wait for a lock of the engine: they read what `finish`
/// published. Callbacks of futures run in `announce` with no lock held. A Work that nobody holds any more completes all
/// the same: the core owns the completion, and the completion owns the Work until it has been announced.
class WorkRMPI final : public c10d::Work {
 public:
  using Tensors = std::vector<at::Tensor>;
  /// Most operations have one result: it needs no memory of its own.
  using Results = c10::SmallVector<at::Tensor, 1>;

  /// `results` is what result() and the future give. `title` (a string literal or null) names the profiler event, and
  /// `profiled` are the tensors whose shapes it records.
  WorkRMPI(int rank, c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled, Results results);
  ~WorkRMPI() override;

  // Building. Only the issuing thread calls these, before anybody else sees the Work.

  /// The object that the core gets with the operation. `staging` lives as long as it.
  std::unique_ptr<bridge::Completion> completion(Staging staging, Epilogue epilogue);
  /// What the core says of the operation.
  void set_issued(const bridge::Issued& issued);
  /// Ends an operation that ended well while it was issued.
  void finish_at_once(std::int32_t source) noexcept;
  /// Makes this Work a batch that `close_batch` will close.
  void open_batch();
  /// Makes `member` a part of this open batch, before it is issued.
  void join_batch(WorkRMPI& member);
  /// What became of it: the core has taken it, or has refused it.
  void member_issued(c10::intrusive_ptr<WorkRMPI> member);
  void member_refused(WorkRMPI& member);
  void close_batch();
  /// Waits for the end, whatever it is.
  void await_end();

  // c10d::Work.

  bool isCompleted() override;
  bool isSuccess() const override;
  std::exception_ptr exception() const override;
  int sourceRank() const override;
  Tensors result() override;
  /// Drives the operation until it has ended or `timeout` has passed; kNoTimeout leaves the operation's own timeout
  /// alone to end it. When `timeout` passes first it throws DistBackendError and the operation goes on.
  bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
  void synchronize() override;
  void abort() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFutureResult() override;
  uint64_t getSequencenumber() const override;
  std::chrono::milliseconds getTimeout() const TORCH_RMPI_OVERRIDE_SINCE_2_14;

 private:
  friend class WorkCompletion;
  using Future = c10::intrusive_ptr<c10::ivalue::Future>;

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  void finish(std::exception_ptr error, c10d::WorkResult outcome, int source) noexcept;
  void member_finished(const std::exception_ptr& error, c10d::WorkResult outcome) noexcept;
  void member_left() noexcept;
  void announce() noexcept;
  /// True if nobody has asked for a future, nor for one of the batch that ends with this; later ones are told at once.
  bool announce_to_nobody() noexcept;
  void settle(const Future& values, const Future& outcome) noexcept;
  /// Runs a function that runs users' callbacks.
  template <class Function>
  void complete(Function&& function) noexcept;
  Tensors all_results() const;
  bool attempt(std::uint64_t milliseconds);
  std::string describe() const;

  const ForkGuard owner_;
  Results results_;
  std::optional<rust::Box<bridge::Request>> request_;
  std::uint64_t sequence_number_ = 0;
  std::chrono::milliseconds timeout_{0};

  // A batch: its members, how many have yet to finish (and one for the batch being open), and the first error.
  std::vector<c10::intrusive_ptr<WorkRMPI>> members_;
  std::atomic<std::size_t> pending_{0};
  std::mutex batch_mutex_;
  std::exception_ptr batch_error_;
  c10d::WorkResult batch_outcome_ = c10d::WorkResult::SUCCESS;
  // The batch that this Work is a member of, until it has been announced.
  c10::intrusive_ptr<WorkRMPI> batch_;

  // Written by `finish` only, before the release store to done_; read after an acquire load of it.
  std::exception_ptr error_;
  c10d::WorkResult outcome_ = c10d::WorkResult::UNKNOWN;
  int source_ = -1;
  std::atomic<bool> done_{false};

  // Futures exist only if somebody asked. Under the mutex, no foreign code runs.
  std::mutex future_mutex_;
  bool announced_ = false;
  Future future_;
  Future future_result_;
};

}  // namespace rmpi
