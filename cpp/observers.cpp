#include "observers.hpp"

#include <utility>

#include <c10/util/Logging.h>

#include "foreign.hpp"
#include "interrupt.hpp"

namespace rmpi {

template <class Hook>
void Observers::change(std::shared_ptr<const Table<Hook>>& table, std::int64_t id, std::shared_ptr<const Hook> hook) {
  std::shared_ptr<const Table<Hook>> previous;
  {
    const std::lock_guard<std::mutex> lock(tables_mutex_);
    auto next = table ? std::make_shared<Table<Hook>>(*table) : std::make_shared<Table<Hook>>();
    if (hook) {
      (*next)[id] = std::move(hook);
    } else {
      next->erase(id);
    }
    previous = std::exchange(table, std::move(next));
    has_completion_hooks_.store(completion_hooks_ && !completion_hooks_->empty(), std::memory_order_relaxed);
  }
  // The hook that went dies here with the table it was in, outside the lock.
}

template <class Hook>
std::shared_ptr<const Observers::Table<Hook>> Observers::current(
    const std::shared_ptr<const Table<Hook>>& table) const {
  const std::lock_guard<std::mutex> lock(tables_mutex_);
  return table;
}

void Observers::add_completion_hook(std::int64_t id, CompletionHook hook) {
  change(completion_hooks_, id, std::make_shared<const CompletionHook>(std::move(hook)));
}

void Observers::remove_completion_hook(std::int64_t id) { change<CompletionHook>(completion_hooks_, id, nullptr); }

void Observers::add_abort_hook(std::int64_t id, AbortHook hook) {
  change(abort_hooks_, id, std::make_shared<const AbortHook>(std::move(hook)));
}

void Observers::remove_abort_hook(std::int64_t id) { change<AbortHook>(abort_hooks_, id, nullptr); }

void Observers::completed(std::uint64_t key, std::optional<float> milliseconds) const noexcept {
  if (!has_completion_hooks_.load(std::memory_order_relaxed) || is_interpreter_ending()) return;
  const auto hooks = current(completion_hooks_);
  for (const auto& [id, hook] : *hooks) {
    run_foreign([&hook = *hook, key, milliseconds] { hook(key, milliseconds); },
                [id = id] { return c10::str("completion hook ", id); });
  }
}

void Observers::failed(std::uint32_t generation) noexcept {
  if (is_interpreter_ending()) return;
  bool is_first = false;
  std::shared_ptr<Aside> run;
  {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    is_first = generation == this->generation() && is_first_to_hear(generation);
    if (is_first) {
      abort_run_.reset();
      if (auto hooks = current(abort_hooks_); hooks && !hooks->empty()) {
        abort_run_ = Aside::make([hooks = std::move(hooks)] { run_abort_hooks(*hooks); });
      }
    }
    run = abort_run_;
  }
  // Without the lock: where there can be no thread, the hooks run here.
  if (is_first && run) Aside::start(run);
  // Whoever comes second waits, too: the process may end as soon as this returns, and the hooks save what explains why.
  if (run) run->wait();
}

void Observers::run_abort_hooks(const Table<AbortHook>& hooks) noexcept {
  for (const auto& [id, hook] : hooks) {
    if (is_interpreter_ending()) return;
    run_foreign([&hook = *hook] { hook(); }, [id = id] { return c10::str("abort hook ", id); });
  }
}

bool Observers::is_first_to_hear(std::uint32_t generation) {
  // 0 stands for none.
  const std::uint64_t next = std::uint64_t{generation} + 1;
  auto heard = heard_.load(std::memory_order_relaxed);
  while (heard < next) {
    if (heard_.compare_exchange_weak(heard, next, std::memory_order_relaxed)) return true;
  }
  return false;
}

void Observers::expect_failure() { is_first_to_hear(generation()); }

void Observers::begin_generation() { generation_.fetch_add(1, std::memory_order_relaxed); }

void Observers::set_report(Report report) {
  auto next = std::make_shared<const Report>(std::move(report));
  {
    const std::lock_guard<std::mutex> lock(reports_mutex_);
    report_.swap(next);
  }
  has_report_.store(true, std::memory_order_relaxed);
}

std::unique_ptr<Observers::Due> Observers::report_due() {
  if (!has_report_.load(std::memory_order_relaxed)) return nullptr;
  return std::make_unique<Due>(shared_from_this());
}

bool Observers::await_reports(std::chrono::milliseconds limit) {
  std::unique_lock<std::mutex> lock(reports_mutex_);
  return none_due_.wait_for(lock, limit, [this] { return reports_due_ == 0; });
}

Observers::Due::Due(std::shared_ptr<Observers> observers) : observers_(std::move(observers)) {
  const std::lock_guard<std::mutex> lock(observers_->reports_mutex_);
  ++observers_->reports_due_;
}

Observers::Due::~Due() {
  const std::lock_guard<std::mutex> lock(observers_->reports_mutex_);
  if (--observers_->reports_due_ == 0) observers_->none_due_.notify_all();
}

void Observers::Due::report(std::shared_ptr<c10d::WorkInfo> info) noexcept {
  if (is_interpreter_ending()) return;
  std::shared_ptr<const Report> report;
  {
    const std::lock_guard<std::mutex> lock(observers_->reports_mutex_);
    report = observers_->report_;
  }
  run_foreign([&] { (*report)(std::move(info)); }, [] { return std::string("the on-completion hook"); });
}

}  // namespace rmpi
