// What users want to know of a group's operations beside each Work: hooks, and how long operations take.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "aside.hpp"

namespace rmpi {

/// Shared by a group and its operations, some of which outlive it. Every function may be called from any thread. Hooks
/// run with no lock of this object held, and never once the interpreter has begun to end: they may belong to it. What
/// one throws is logged.
class Observers : public std::enable_shared_from_this<Observers> {
 public:
  using Clock = std::chrono::steady_clock;
  /// Takes the Work's completion key, and its duration in milliseconds if operations are timed.
  using CompletionHook = std::function<void(std::uint64_t, std::optional<float>)>;
  using AbortHook = std::function<void()>;
  using Report = std::function<void(std::shared_ptr<c10d::WorkInfo>)>;

  /// A hook with the number of another one takes its place.
  void add_completion_hook(std::int64_t id, CompletionHook hook);
  /// It may still run on another thread when this returns.
  void remove_completion_hook(std::int64_t id);
  void add_abort_hook(std::int64_t id, AbortHook hook);
  void remove_abort_hook(std::int64_t id);
  /// Told of every operation that has ended well, by the thread that runs users' callbacks.
  void set_report(Report report);

  void enable_timing() { is_timing_.store(true, std::memory_order_relaxed); }
  bool is_timing() const { return is_timing_.load(std::memory_order_relaxed); }

  /// Runs the completion hooks.
  void completed(std::uint64_t key, std::optional<float> milliseconds) const noexcept;
  /// Runs the abort hooks, because an operation of this generation of the group's members has failed: once for each
  /// generation, aside. Returns when they have run, or for what takes longer as Aside::wait() does.
  void failed(std::uint32_t generation) noexcept;
  /// Its user ends the group, or this generation: what fails because of that is no reason to run abort hooks.
  void expect_failure();
  /// The group has other members from now on.
  void begin_generation();
  std::uint32_t generation() const { return generation_.load(std::memory_order_relaxed); }

  /// That a report of an operation is due, until it is destroyed.
  class Due {
   public:
    explicit Due(std::shared_ptr<Observers> observers);
    ~Due();
    Due(const Due&) = delete;
    Due& operator=(const Due&) = delete;

    void report(std::shared_ptr<c10d::WorkInfo> info) noexcept;

   private:
    const std::shared_ptr<Observers> observers_;
  };

  /// Something to hold until the operation has been reported; null if nobody wants reports.
  std::unique_ptr<Due> report_due();
  /// Whether nothing is due; waits for that for up to `limit`.
  bool await_reports(std::chrono::milliseconds limit);

 private:
  // Hooks are shared and never copied: to copy or destroy one may take a lock of the language that it is from.
  template <class Hook>
  using Table = std::map<std::int64_t, std::shared_ptr<const Hook>>;

  /// Puts `hook` into a copy of `table`, or takes out what is there if it is null: whoever runs hooks goes on with the
  /// table that it has found.
  template <class Hook>
  void change(std::shared_ptr<const Table<Hook>>& table, std::int64_t id, std::shared_ptr<const Hook> hook);
  bool is_first_to_hear(std::uint32_t generation);
  static void run_abort_hooks(const Table<AbortHook>& hooks) noexcept;
  template <class Hook>
  std::shared_ptr<const Table<Hook>> current(const std::shared_ptr<const Table<Hook>>& table) const;

  // Relaxed: operations are timed that are issued after it was set, on the same thread or on one that knows of it.
  std::atomic<bool> is_timing_{false};

  // Whether there are completion hooks: spares operations the lock. Relaxed: hooks are registered before the operations
  // that they are to hear of are issued.
  std::atomic<bool> has_completion_hooks_{false};
  mutable std::mutex tables_mutex_;
  std::shared_ptr<const Table<CompletionHook>> completion_hooks_;
  std::shared_ptr<const Table<AbortHook>> abort_hooks_;

  // One more than the last generation of which abort hooks have heard, or need not hear. Relaxed: only who comes first
  // matters.
  std::atomic<std::uint64_t> heard_{0};
  // Of the last generation that has failed. The mutex makes whoever fails second find it.
  std::mutex failure_mutex_;
  std::shared_ptr<Aside> abort_run_;
  // Relaxed: only compared with what a thread was told of the operation that it ends.
  std::atomic<std::uint32_t> generation_{0};

  // As has_completion_hooks_.
  std::atomic<bool> has_report_{false};
  std::mutex reports_mutex_;
  std::shared_ptr<const Report> report_;
  std::size_t reports_due_ = 0;
  std::condition_variable none_due_;
};

}  // namespace rmpi
