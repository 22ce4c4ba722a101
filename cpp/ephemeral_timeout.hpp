// Extensions of a group's timeout that end by themselves (c10d::Backend::addEphemeralTimeout).
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace rmpi {

/// An extension counts for every operation issued after it was added, until the first of them has ended. Shared by a
/// group and its operations, some of which outlive it.
class EphemeralTimeout : public std::enable_shared_from_this<EphemeralTimeout> {
 public:
  using Milliseconds = std::chrono::milliseconds;

  /// Held by the first operation that is issued under an extension, which `end` ends. If the operation was refused, the
  /// extension is for the next.
  class Lease {
   public:
    Lease(std::shared_ptr<EphemeralTimeout> owner, Milliseconds owned) : owner_(std::move(owner)), owned_(owned) {}
    ~Lease() { owner_->release(owned_, has_ended_); }
    void end() { has_ended_ = true; }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

   private:
    const std::shared_ptr<EphemeralTimeout> owner_;
    const Milliseconds owned_;
    bool has_ended_ = false;
  };

  void add(Milliseconds extension) {
    const std::lock_guard<std::mutex> lock(mutex_);
    active_ += extension;
    is_active_.store(active_ != Milliseconds(0), std::memory_order_relaxed);
  }

  /// For an operation that is about to be issued: by how much its timeout is longer, and what it has to hold until it
  /// has ended (null if another one will end the extension).
  std::pair<Milliseconds, std::unique_ptr<Lease>> extension() {
    // Relaxed: an extension is for operations that come after it on its own thread, or on one that knows of it.
    if (!is_active_.load(std::memory_order_relaxed)) return {};
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto owned = active_ - std::exchange(leased_, active_);
    return {active_, owned == Milliseconds(0) ? nullptr : std::make_unique<Lease>(shared_from_this(), owned)};
  }

 private:
  void release(Milliseconds owned, bool has_ended) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (has_ended) active_ -= owned;
    leased_ -= owned;
    is_active_.store(active_ != Milliseconds(0), std::memory_order_relaxed);
  }

  std::atomic<bool> is_active_{false};
  std::mutex mutex_;
  // The sum of the extensions, and of those for which an operation has been issued.
  Milliseconds active_{0};
  Milliseconds leased_{0};
};

}  // namespace rmpi
