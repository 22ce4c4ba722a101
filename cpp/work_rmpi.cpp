#include "work_rmpi.hpp"

#include <algorithm>
#include <utility>

#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include "errors.hpp"
#include "foreign.hpp"
#include "interrupt.hpp"

namespace rmpi {
namespace {

c10d::WorkResult outcome_of(bridge::ErrorKind kind) {
  switch (kind) {
    case bridge::ErrorKind::None:
      return c10d::WorkResult::SUCCESS;
    case bridge::ErrorKind::Timeout:
      return c10d::WorkResult::TIMEOUT;
    default:
      return c10d::WorkResult::COMM_ERROR;
  }
}

// The base class makes the profiler's event; without a profiler there is nothing to copy for it.
const char* active_title(const char* title) { return title != nullptr && at::hasCallbacks() ? title : nullptr; }

std::uint64_t next_completion_key() {
  // Relaxed, here and in other counters of this kind: only that no two get the same number matters.
  static std::atomic<std::uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

std::optional<std::vector<at::Tensor>> active_inputs(const char* title, c10::ArrayRef<at::Tensor> profiled) {
  if (active_title(title) == nullptr) return std::nullopt;
  return profiled.vec();
}

}  // namespace

/// What the core calls when the operation ends. Owns the memory of the operation.
class WorkCompletion final : public bridge::Completion {
 public:
  WorkCompletion(c10::intrusive_ptr<WorkRMPI> work, Staging staging, Epilogue epilogue)
      : work_(std::move(work)), staging_(std::move(staging)), epilogue_(std::move(epilogue)) {}

  void finish(bridge::ErrorKind kind, rust::Str message, std::int32_t source) noexcept override {
    std::exception_ptr error;
    auto outcome = outcome_of(kind);
    if (kind != bridge::ErrorKind::None) {
      error = make_error(kind, std::string(message));
    } else {
      try {
        staging_.copy_back();
        if (epilogue_) epilogue_();
      } catch (...) {
        error = std::current_exception();
        outcome = c10d::WorkResult::UNKNOWN;
      }
    }
    work_->finish(std::move(error), outcome, source);
  }

  void announce() noexcept override {
    // The Work may die here: only the memory has to stay for as long as the core holds this object.
    const auto work = std::move(work_);
    epilogue_ = nullptr;
    work->announce();
  }

  bool announce_to_nobody() noexcept override {
    if (!work_->announce_to_nobody()) return false;
    work_.reset();
    epilogue_ = nullptr;
    return true;
  }

 private:
  c10::intrusive_ptr<WorkRMPI> work_;
  Staging staging_;
  Epilogue epilogue_;
};

WorkRMPI::WorkRMPI(std::shared_ptr<Observers> observers, int rank, c10d::OpType type, const char* title,
                   c10::ArrayRef<at::Tensor> profiled, Results results, std::optional<Clock::time_point> started)
    : c10d::Work(rank, type, active_title(title), active_inputs(title, profiled)),
      observers_(std::move(observers)),
      completion_key_(next_completion_key()),
      started_(started),
      generation_(observers_->generation()),
      results_(std::move(results)) {}

WorkRMPI::~WorkRMPI() {
  if (owner_.in_owner()) return;
  // In a forked child the request belongs to an engine that does not exist there, and whoever held a lock of the group
  // is not there to leave it.
  if (request_) std::move(*request_).into_raw();
  (void)due_.release();
  (void)lease_.release();
}

std::unique_ptr<bridge::Completion> WorkRMPI::completion(Staging staging, Epilogue epilogue) {
  return std::make_unique<WorkCompletion>(c10::intrusive_ptr<WorkRMPI>::unsafe_reclaim_from_nonowning(this),
                                          std::move(staging), std::move(epilogue));
}

void WorkRMPI::set_number(std::uint64_t sequence_number, std::chrono::milliseconds timeout) {
  sequence_number_ = sequence_number;
  timeout_ = timeout;
}

void WorkRMPI::set_request(bridge::Request* request) { request_.emplace(bridge::own_request(request)); }

void WorkRMPI::finish_at_once(std::int32_t source) noexcept {
  finish(nullptr, c10d::WorkResult::SUCCESS, source);
  // Nobody else has seen this Work, so nobody waits for an announcement. Its batch is open still, and announces itself.
  announced_ = true;
  batch_.reset();
}

void WorkRMPI::open_batch() { pending_.store(1, std::memory_order_relaxed); }

void WorkRMPI::join_batch(WorkRMPI& member) {
  pending_.fetch_add(1, std::memory_order_relaxed);
  member.batch_ = c10::intrusive_ptr<WorkRMPI>::unsafe_reclaim_from_nonowning(this);
}

void WorkRMPI::member_issued(c10::intrusive_ptr<WorkRMPI> member) { members_.push_back(std::move(member)); }

void WorkRMPI::member_refused(WorkRMPI& member) {
  member.batch_.reset();
  member_left();
}

void WorkRMPI::close_batch() {
  member_left();
  if (over()) announce();
}

void WorkRMPI::member_left() noexcept {
  // Acquire and release: whoever leaves last sees what all the others wrote. The batch itself holds one count until it
  // is closed, so members_ is complete by then.
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  finish(batch_error_, batch_outcome_, -1);
}

void WorkRMPI::member_finished(const WorkRMPI& member) noexcept {
  if (member.error_) {
    const std::lock_guard<std::mutex> lock(batch_mutex_);
    if (!batch_error_) {
      batch_error_ = member.error_;
      batch_outcome_ = member.outcome_;
      fails_group_ = member.fails_group_;
    }
  }
  member_left();
}

void WorkRMPI::finish(std::exception_ptr error, c10d::WorkResult outcome, int source) noexcept {
  if (recordFunctionEndCallback_) {
    // Before waiters are released: one of them may stop the profiler.
    const auto end_event = std::exchange(recordFunctionEndCallback_, nullptr);
    try {
      end_event();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (started_) finished_ = Clock::now();
  if (lease_) lease_->end();
  lease_.reset();
  // Before waiters are released: one of them may end the process.
  if (fails_group_ && (outcome == c10d::WorkResult::TIMEOUT || outcome == c10d::WorkResult::COMM_ERROR)) {
    observers_->failed(generation_);
  }
  error_ = std::move(error);
  outcome_ = outcome;
  source_ = source;
  // Release: pairs with the acquire load in done(), which guards error_, outcome_, source_ and the tensors' contents.
  done_.store(true, std::memory_order_release);
  if (!error_) observers_->completed(completion_key_, duration());
  // Whoever has waited for all members finds their batch done; hooks hear of it after the members.
  if (batch_) batch_->member_finished(*this);
  // Release: pairs with the acquire load in over(); what hooks did is seen by whoever has waited.
  over_.store(true, std::memory_order_release);
}

void WorkRMPI::announce() noexcept {
  Future values;
  Future outcome;
  c10::intrusive_ptr<WorkRMPI> batch;
  {
    const std::lock_guard<std::mutex> lock(future_mutex_);
    if (std::exchange(announced_, true)) return;
    values = future_;
    outcome = future_result_;
    // Only whoever announces takes it: two threads may end two members of one batch.
    batch = std::move(batch_);
  }
  // First, because a callback of this Work may wait for the batch's future.
  if (batch && batch->over()) batch->announce();
  settle(values, outcome);
  report();
}

void WorkRMPI::report() noexcept {
  const auto due = std::move(due_);
  if (!due || error_ || !started_) return;
  due->report(std::make_shared<c10d::WorkInfo>(opType_, sequence_number_, *started_, finished_,
                                               std::chrono::duration<float>(finished_ - *started_)));
}

bool WorkRMPI::announce_to_nobody() noexcept {
  if (due_) return false;
  c10::intrusive_ptr<WorkRMPI> batch;
  {
    const std::lock_guard<std::mutex> lock(future_mutex_);
    if (announced_) return true;
    batch = batch_;
  }
  if (batch && batch->over() && !batch->announce_to_nobody()) return false;
  const std::lock_guard<std::mutex> lock(future_mutex_);
  if (announced_) return true;
  if (future_ || future_result_) return false;
  announced_ = true;
  // `batch` keeps it until the lock is free.
  batch_.reset();
  return true;
}

void WorkRMPI::settle(const Future& values, const Future& outcome) noexcept {
  const auto callback = [this] { return "a callback of a future of " + label(); };
  // The outcome first: a callback that waits for it may be attached to the values.
  run_foreign(
      [&] {
        if (outcome) outcome->markCompleted(c10::IValue(static_cast<std::int64_t>(outcome_)));
      },
      callback);
  run_foreign(
      [&] {
        if (!values) return;
        if (error_) {
          values->setError(error_);
        } else {
          values->markCompleted(c10::IValue(all_results()));
        }
      },
      callback);
}

bool WorkRMPI::isCompleted() { return done(); }

bool WorkRMPI::isSuccess() const { return done() && !error_; }

std::exception_ptr WorkRMPI::exception() const { return done() ? error_ : nullptr; }

int WorkRMPI::sourceRank() const {
  if (opType_ != c10d::OpType::RECV && opType_ != c10d::OpType::RECVANYSOURCE) return Work::sourceRank();
  return done() ? source_ : -1;
}

WorkRMPI::Tensors WorkRMPI::all_results() const {
  Tensors results(results_.begin(), results_.end());
  for (const auto& member : members_) {
    auto more = member->all_results();
    results.insert(results.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return results;
}

WorkRMPI::Tensors WorkRMPI::result() {
  TORCH_CHECK(done(), "rmpi: result() of an operation that has not finished; call wait() first.");
  return all_results();
}

bool WorkRMPI::attempt(std::uint64_t milliseconds) {
  if (over()) return true;
  if (request_) return (*request_)->wait(milliseconds) && over();
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(milliseconds);
  for (const auto& member : members_) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
    if (!member->attempt(static_cast<std::uint64_t>(std::max<std::int64_t>(left, 0)))) return false;
  }
  return over();
}

bool WorkRMPI::wait(std::chrono::milliseconds timeout) {
  if (!over()) {
    owner_.check("Work.wait");
    const auto limit = timeout > kNoTimeout ? std::make_optional(timeout) : std::nullopt;
    if (!wait_in_slices(limit, [this](std::uint64_t slice) { return attempt(slice); })) {
      C10_THROW_ERROR(DistBackendError,
                      c10::str("rmpi: wait for ", describe(), " reached its timeout after ", timeout.count(),
                               " ms. The operation goes on and may be waited for again."));
    }
  } else {
    return_or_stay();
  }
  if (error_) std::rethrow_exception(error_);
  return true;
}

void WorkRMPI::await_end() {
  wait_in_slices(std::nullopt, [this](std::uint64_t slice) { return attempt(slice); });
}

void WorkRMPI::synchronize() {}

void WorkRMPI::abort() {
  owner_.check("Work.abort");
  if (request_) (*request_)->cancel("Work.abort was called");
  for (const auto& member : members_) member->abort();
}

c10::intrusive_ptr<c10::ivalue::Future> WorkRMPI::getFuture() {
  Future future;
  bool late = false;
  {
    const std::lock_guard<std::mutex> lock(future_mutex_);
    if (!future_) {
      future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::ofTensors());
      late = announced_;
    }
    future = future_;
  }
  if (late) settle(future, nullptr);
  return future;
}

c10::intrusive_ptr<c10::ivalue::Future> WorkRMPI::getFutureResult() {
  Future future;
  bool late = false;
  {
    const std::lock_guard<std::mutex> lock(future_mutex_);
    if (!future_result_) {
      future_result_ = c10::make_intrusive<c10::ivalue::Future>(c10::IntType::get());
      late = announced_;
    }
    future = future_result_;
  }
  if (late) settle(nullptr, future);
  return future;
}

std::optional<float> WorkRMPI::duration() const {
  if (!started_) return std::nullopt;
  return std::chrono::duration<float, std::milli>(finished_ - *started_).count();
}

float WorkRMPI::getDuration() const {
  TORCH_CHECK(started_,
              "rmpi: getDuration: the group did not time its operations when this one was issued; call "
              "enableCollectivesTiming (in Python: group._enable_collectives_timing()) before.");
  TORCH_CHECK(done(), "rmpi: getDuration of an operation that has not finished; call wait() first.");
  return *duration();
}

uint64_t WorkRMPI::getCompletionKey() const { return completion_key_; }

uint64_t WorkRMPI::getSequencenumber() const {
  return members_.empty() ? sequence_number_ : members_.back()->getSequencenumber();
}

std::chrono::milliseconds WorkRMPI::getTimeout() const {
  auto longest = timeout_;
  for (const auto& member : members_) longest = std::max(longest, member->getTimeout());
  return longest;
}

std::string WorkRMPI::describe() const {
  if (request_) return std::string((*request_)->describe());
  if (!members_.empty()) {
    return c10::str("a batch of ", members_.size(), " operations that begins with ", members_.front()->describe());
  }
  if (opType_ == c10d::OpType::COALESCED) return "an empty batch of operations";
  return label();
}

std::string WorkRMPI::label() const {
  return c10::str(c10d::opTypeToString(opType_), " (sequence number ", sequence_number_, ")");
}

}  // namespace rmpi
