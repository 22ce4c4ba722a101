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
#include <torch_rmpi/process_group_rmpi.hpp>
#include <torch_rmpi/torch_version.hpp>

#include "ephemeral_timeout.hpp"
#include "fork_guard.hpp"
#include "observers.hpp"
#include "staging.hpp"

namespace rmpi {

/// Runs on the finishing thread after the core has succeeded and before waiters are released; may throw.
using Epilogue = std::function<void()>;

/// An operation, or a batch of them (coalesced operations): a batch is done when all its members are.
///
/// isCompleted, isSuccess, exception, result and getFuture never wait for a lock of the engine: they read what `finish`
/// published. Callbacks of futures run in `announce` with no lock held. A Work that nobody holds any more completes all
/// the same: the core owns the completion, and the completion owns the Work until it has been announced.
class RMPI_API WorkRMPI final : public c10d::Work {
 public:
  using Tensors = std::vector<at::Tensor>;
  /// Most operations have one result: it needs no memory of its own.
  using Results = c10::SmallVector<at::Tensor, 1>;

  using Clock = Observers::Clock;

  /// `results` is what result() and the future give. `title` (a string literal or null) names the profiler event, and
  /// `profiled` are the tensors whose shapes it records. `started`: when the operation was called, if it is timed.
  WorkRMPI(std::shared_ptr<Observers> observers, int rank, c10d::OpType type, const char* title,
           c10::ArrayRef<at::Tensor> profiled, Results results, std::optional<Clock::time_point> started);
  ~WorkRMPI() override;

  // Building. Only the issuing thread calls these, before anybody else sees the Work.

  /// The object that the core gets with the operation. `staging` lives as long as it.
  std::unique_ptr<bridge::Completion> completion(Staging staging, Epilogue epilogue);
  /// To be held until the operation has ended.
  void hold(std::unique_ptr<EphemeralTimeout::Lease> lease) { lease_ = std::move(lease); }
  /// Has the end of the operation reported.
  void report_to(std::unique_ptr<Observers::Due> due) { due_ = std::move(due); }
  /// Its failure is no failure of the group.
  void leave_group_usable() { fails_group_ = false; }
  /// The operation's number in its group, and how long it may take. Before it can end.
  void set_number(std::uint64_t sequence_number, std::chrono::milliseconds timeout);
  /// Takes over what stands for the operation in the core.
  void set_request(bridge::Request* request);
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
  /// Milliseconds from the call to the end of the operation. Error if its group did not time operations when it was
  /// issued (enableCollectivesTiming), or if it has not ended.
  float getDuration() const override;
  /// Unique in this process.
  uint64_t getCompletionKey() const TORCH_RMPI_OVERRIDE_SINCE_2_15;
  uint64_t getSequencenumber() const override;
  std::chrono::milliseconds getTimeout() const TORCH_RMPI_OVERRIDE_SINCE_2_14;

 private:
  friend class WorkCompletion;
  using Future = c10::intrusive_ptr<c10::ivalue::Future>;

  bool done() const noexcept { return done_.load(std::memory_order_acquire); }
  bool over() const noexcept { return over_.load(std::memory_order_acquire); }
  std::optional<float> duration() const;
  void finish(std::exception_ptr error, c10d::WorkResult outcome, int source) noexcept;
  void member_finished(const WorkRMPI& member) noexcept;
  void member_left() noexcept;
  void announce() noexcept;
  /// True if nobody has asked for a future, nor for one of the batch that ends with this; later ones are told at once.
  bool announce_to_nobody() noexcept;
  void settle(const Future& values, const Future& outcome) noexcept;
  /// Tells whoever wants to hear of every operation.
  void report() noexcept;
  Tensors all_results() const;
  bool attempt(std::uint64_t milliseconds);
  /// For whoever holds the Work.
  std::string describe() const;
  /// For those that may come before its issuer has all of it.
  std::string label() const;

  const ForkGuard owner_;
  const std::shared_ptr<Observers> observers_;
  const std::uint64_t completion_key_;
  const std::optional<Clock::time_point> started_;
  std::unique_ptr<EphemeralTimeout::Lease> lease_;
  std::unique_ptr<Observers::Due> due_;
  bool fails_group_ = true;
  // Of the group's members when this was issued.
  const std::uint32_t generation_;
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
  Clock::time_point finished_;
  std::exception_ptr error_;
  c10d::WorkResult outcome_ = c10d::WorkResult::UNKNOWN;
  int source_ = -1;
  std::atomic<bool> done_{false};
  // Set when hooks have heard of it: whoever waits goes on then. They need done_ before: a hook that comes too early to
  // know the operation makes its owner look again.
  std::atomic<bool> over_{false};

  // Futures exist only if somebody asked. Under the mutex, no foreign code runs.
  std::mutex future_mutex_;
  bool announced_ = false;
  Future future_;
  Future future_result_;
};

}  // namespace rmpi
