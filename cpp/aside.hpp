// Users' code that may take longer than whoever causes it can wait: it runs on a thread of its own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

namespace rmpi {

/// How long aside() waits, at most.
inline constexpr std::chrono::milliseconds kPatience{500};

/// Something that runs on a thread of its own. Waiting for it is possible from any thread.
class Aside {
 public:
  /// `function` throws nothing.
  static std::shared_ptr<Aside> make(std::function<void()> function);
  /// Starts it; here, if there can be no thread. Once.
  static void start(const std::shared_ptr<Aside>& aside);

  /// Until it has run, or this process has waited for such functions for kPatience since it was last free of them: many
  /// of them, one after the other, take no longer than one. Not at all on a thread that runs one.
  void wait() const;

 private:
  struct Process;
  static Process& process();
  explicit Aside(std::function<void()> function);
  void run();

  friend bool await_asides(std::optional<std::chrono::milliseconds> limit);

  std::function<void()> function_;  // until it has run, by the thread that runs it
  bool has_run_ = false;            // guarded by the process's mutex
};

/// Waits until nothing runs aside; false when `limit` has passed. Can be interrupted.
bool await_asides(std::optional<std::chrono::milliseconds> limit);

}  // namespace rmpi
