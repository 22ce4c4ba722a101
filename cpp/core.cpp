#include "core.hpp"

#include <exception>
#include <memory>
#include <utility>

#include <ATen/record_function.h>

#include "errors.hpp"
#include "interrupt.hpp"

namespace rmpi {
namespace {

/// A number that no other thread of this process ever has.
std::uint64_t thread_number() {
  static std::atomic<std::uint64_t> next{0};
  thread_local const std::uint64_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

rust::Slice<const bridge::Region> as_slice(const Regions& regions) { return {regions.data(), regions.size()}; }

std::optional<Observers::Clock::time_point> time_if_wanted(const Observers& observers) {
  if (!observers.is_timing()) return std::nullopt;
  return Observers::Clock::now();
}

/// A launch on its way into the core. Its Work is made when it is needed: an operation that ends at once has none until
/// then.
class Issuing final : public bridge::Issuer {
 public:
  /// `ephemeral_timeout`: null if the operation is only estimated; then nobody hears of it either.
  Issuing(int rank, Launch& launch, const std::shared_ptr<Observers>& observers, EphemeralTimeout* ephemeral_timeout)
      : rank_(rank),
        launch_(launch),
        observers_(observers),
        started_(time_if_wanted(*observers)),
        is_profiled_(at::hasCallbacks()) {
    if (ephemeral_timeout != nullptr) {
      auto [extension, lease] = ephemeral_timeout->extension();
      launch.call.timeout_extension_ms = extension.count();
      lease_ = std::move(lease);
      due_ = observers->report_due();
      launch.call.reported = due_ != nullptr;
    }
    // The event begins with the Work, and before the core is called: what listens to it may issue operations itself.
    if (is_profiled_) work();
  }

  std::unique_ptr<bridge::Completion> completion(std::uint64_t sequence_number, std::int64_t timeout_ms) override {
    work()->set_number(sequence_number, std::chrono::milliseconds(timeout_ms));
    return work()->completion(std::move(launch_.staging), std::move(launch_.epilogue));
  }

  const c10::intrusive_ptr<WorkRMPI>& work() {
    if (!work_) {
      work_ = c10::make_intrusive<WorkRMPI>(observers_, rank_, launch_.type, is_profiled_ ? launch_.title : nullptr,
                                            launch_.profiled, std::move(launch_.results), started_);
      if (lease_) work_->hold(std::move(lease_));
      if (due_) work_->report_to(std::move(due_));
      if (launch_.call.operation == bridge::Operation::MonitoredBarrier) work_->leave_group_usable();
    }
    return work_;
  }

 private:
  const int rank_;
  Launch& launch_;
  const std::shared_ptr<Observers>& observers_;
  const std::optional<Observers::Clock::time_point> started_;
  const bool is_profiled_;
  std::unique_ptr<EphemeralTimeout::Lease> lease_;
  std::unique_ptr<Observers::Due> due_;
  c10::intrusive_ptr<WorkRMPI> work_;
};

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

void Launch::give(TensorList tensors) { results.append(tensors.begin(), tensors.end()); }

void Launch::set_reduction(const Reduction& reduction) {
  call.reduce_op = reduction.op;
  call.factor = reduction.factor;
}

ProcessGroupRMPI::Core::Core(rust::Box<bridge::Group> group, int rank, int size, std::shared_ptr<Observers> observers,
                             std::shared_ptr<EphemeralTimeout> ephemeral_timeout)
    : rank(rank),
      size(size),
      group(std::move(group)),
      observers(std::move(observers)),
      ephemeral_timeout(std::move(ephemeral_timeout)) {}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::issue(Launch&& launch) {
  owner.check(launch.title != nullptr ? launch.title : "a process group operation");
  const auto batch = launch.batch ? std::move(launch.batch) : open_batch();
  auto* const sum = estimate();
  Issuing issuing(rank, launch, observers, sum != nullptr ? nullptr : ephemeral_timeout.get());
  if (batch) batch->join_batch(*issuing.work());
  launch.call.waits = !launch.async_op && !batch;
  launch.call.batched = batch != nullptr;
  bridge::Issued issued{};
  try {
    const auto inputs = as_slice(launch.inputs);
    const auto outputs = as_slice(launch.outputs);
    if (sum != nullptr) {
      *sum += call_core([&] { return group->estimate(launch.call, inputs, outputs); });
      issued.source = -1;
    } else {
      issued = call_core([&] { return group->issue(launch.call, inputs, outputs, issuing); });
      if (issued.request == nullptr) {
        launch.staging.copy_back();
        if (launch.epilogue) launch.epilogue();
      }
    }
  } catch (const c10::DistBackendError&) {
    if (launch.call.operation != bridge::Operation::MonitoredBarrier) observers->failed(observers->generation());
    if (batch) batch->member_refused(*issuing.work());
    throw;
  } catch (...) {
    if (batch) batch->member_refused(*issuing.work());
    throw;
  }
  const auto& work = issuing.work();
  if (issued.request != nullptr) work->set_request(issued.request);
  if (batch) batch->member_issued(work);
  if (issued.request == nullptr) {
    work->set_number(issued.sequence_number, std::chrono::milliseconds(issued.timeout_ms));
    work->finish_at_once(issued.source);
  } else if (!batch && !launch.async_op) {
    work->wait();
  }
  return work;
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::coalesce(
    c10d::OpType type, const char* title, c10::ArrayRef<at::Tensor> profiled, bool async_op,
    const std::function<void(const c10::intrusive_ptr<WorkRMPI>&)>& issue_all) {
  const auto outer = open_batch();
  auto work = make_batch(type, title, profiled);
  if (outer) outer->join_batch(*work);
  try {
    issue_all(work);
  } catch (...) {
    // The group has failed halfway. Nobody gets the Work, so what was issued is over when this returns.
    if (outer) outer->member_refused(*work);
    work->close_batch();
    work->await_end();
    throw;
  }
  if (outer) outer->member_issued(work);
  work->close_batch();
  if (!outer && !async_op) work->wait();
  return work;
}

void ProcessGroupRMPI::Core::start_estimate() {
  const std::lock_guard<std::mutex> lock(estimates_mutex_);
  const auto [place, is_new] = estimates_.insert_or_assign(thread_number(), 0.0);
  if (is_new) open_estimates_.fetch_add(1, std::memory_order_relaxed);
}

double ProcessGroupRMPI::Core::end_estimate() {
  const std::lock_guard<std::mutex> lock(estimates_mutex_);
  const auto found = estimates_.find(thread_number());
  TORCH_CHECK(found != estimates_.end(), "rmpi: endTimeEstimate without startTimeEstimate on the same thread.");
  const auto sum = found->second;
  estimates_.erase(found);
  open_estimates_.fetch_sub(1, std::memory_order_relaxed);
  return sum;
}

double* ProcessGroupRMPI::Core::estimate() {
  if (open_estimates_.load(std::memory_order_relaxed) == 0) return nullptr;
  const std::lock_guard<std::mutex> lock(estimates_mutex_);
  const auto found = estimates_.find(thread_number());
  return found == estimates_.end() ? nullptr : &found->second;
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::make_batch(c10d::OpType type, const char* title,
                                                                c10::ArrayRef<at::Tensor> profiled) {
  auto work = c10::make_intrusive<WorkRMPI>(observers, rank, type, title, profiled, WorkRMPI::Results(),
                                            time_if_wanted(*observers));
  work->open_batch();
  return work;
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::open_batch() {
  if (open_batches_.load(std::memory_order_relaxed) == 0) return {};
  const std::lock_guard<std::mutex> lock(batches_mutex_);
  const auto found = batches_.find(thread_number());
  if (found == batches_.end() || !found->second.open) return {};
  return found->second.work;
}

void ProcessGroupRMPI::Core::close_batch() {
  c10::intrusive_ptr<WorkRMPI> work;
  {
    const std::lock_guard<std::mutex> lock(batches_mutex_);
    const auto found = batches_.find(thread_number());
    if (found == batches_.end() || !std::exchange(found->second.open, false)) return;
    work = found->second.work;
    open_batches_.fetch_sub(1, std::memory_order_relaxed);
  }
  work->close_batch();
}

void ProcessGroupRMPI::Core::start_coalescing() {
  owner.check("startCoalescing");
  // A batch that an exception left open is forgotten; its operations go on by themselves.
  close_batch();
  Batch batch{make_batch(c10d::OpType::COALESCED, nullptr, {}), true};
  const std::lock_guard<std::mutex> lock(batches_mutex_);
  // The previous one dies after the lock is free.
  std::swap(batches_[thread_number()], batch);
  open_batches_.fetch_add(1, std::memory_order_relaxed);
}

c10::intrusive_ptr<WorkRMPI> ProcessGroupRMPI::Core::end_coalescing() {
  close_batch();
  const std::lock_guard<std::mutex> lock(batches_mutex_);
  const auto found = batches_.find(thread_number());
  TORCH_CHECK(found != batches_.end(), "rmpi: endCoalescing without startCoalescing on the same thread.");
  auto work = std::move(found->second.work);
  batches_.erase(found);
  return work;
}

void ProcessGroupRMPI::Core::shutdown() {
  wait_in_slices(std::nullopt,
                 [this](std::uint64_t slice) { return call_core([&] { return group->shutdown(slice); }); });
}

ProcessGroupRMPI::Core::Call::Call(Core& core, const char* operation)
    : Check(operation, core.rank, core.size), core_(core), exceptions_(std::uncaught_exceptions()) {}

ProcessGroupRMPI::Core::Call::~Call() {
  // torch does not end a batch when an exception leaves it: every later operation of this thread would fall into it.
  if (std::uncaught_exceptions() > exceptions_ && core_.open_batches_.load(std::memory_order_relaxed) > 0) {
    core_.close_batch();
  }
  return_or_stay();
}

}  // namespace rmpi
