// The C++ classes that the Rust core calls back. They name no torch type, so that the core links and is tested without
// torch.
#pragma once

#include <cstdint>
#include <memory>

#include <rust/cxx.h>

namespace rmpi::bridge {

enum class ErrorKind : std::uint8_t;

/// What happens when an operation ends. The core owns it from `issue` until the memory of the operation is free, so an
/// implementation that owns the tensors keeps them alive exactly as long as somebody may still write to them.
///
/// Call order: `finish` once, then `announce_to_nobody` and, if that says false, `announce`, then the destructor. After
/// a timeout or an abort the destructor may run much later than `announce`: when MPI has let go of the buffers. All run
/// on whichever thread drives the engine, with no lock of the engine held. None may throw.
class Completion {
 public:
  virtual ~Completion() = default;

  /// Records the result: waiters are released when it returns. `kind` is `ErrorKind::None` on success; `source` is the
  /// sender's group rank for a receive, else -1.
  virtual void finish(ErrorKind kind, ::rust::Str message, std::int32_t source) noexcept = 0;

  /// Runs what users attached (futures, hooks), if it was not announced before. May issue operations and wait for them,
  /// or block in any other way: another thread drives meanwhile.
  virtual void announce() noexcept = 0;

  /// Instead of `announce`, if users have attached nothing: true if so, and then nothing waits for `announce` any more.
  virtual bool announce_to_nobody() noexcept = 0;
};

/// Whoever calls `issue`. An operation that ends at once needs no completion, so that none is made beforehand.
class Issuer {
 public:
  /// The completion of the operation, which has this number among those of its group and may take so long. Called at
  /// most once, while `issue` runs, and before the operation can end. May throw.
  virtual std::unique_ptr<Completion> completion(std::uint64_t sequence_number, std::int64_t timeout_ms) = 0;

 protected:
  ~Issuer() = default;
};

}  // namespace rmpi::bridge
