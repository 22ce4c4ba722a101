// Windows: memory of each rank that the other ranks write into.
#pragma once

#include <torch_rmpi/process_group_rmpi.hpp>

#if TORCH_RMPI_HAS_WINDOW

#include <cstdint>
#include <optional>

#include "core.hpp"

namespace rmpi {

/// What ProcessGroupRMPI::new_window gives.
class WindowRMPI final : public c10d::Window {
 public:
  explicit WindowRMPI(c10::intrusive_ptr<ProcessGroupRMPI> group);
  /// Without tensor_deregister: this rank's part ends, and others must use it no more.
  ~WindowRMPI() override;

  void tensor_register(const at::Tensor& tensor, bool owning) override;
  void tensor_deregister() override;
  c10::intrusive_ptr<c10d::Work> put(const at::Tensor& tensor, std::int64_t rank, std::int64_t offset, bool async_op,
                                     const c10d::PutOptions& opts) override;
  at::Tensor map_remote_tensor(std::int64_t rank) override;
  c10::intrusive_ptr<c10d::Work> signal(std::int64_t rank, bool async_op, const c10d::SignalOptions& opts) override;
  c10::intrusive_ptr<c10d::Work> wait_signal(std::int64_t rank, bool async_op,
                                             const c10d::WaitSignalOptions& opts) override;
  c10d::WindowAttr get_attr(std::int64_t rank) override;

 private:
  /// What is registered.
  struct Registered {
    /// Kept: what was registered has to be ended there, whatever becomes of the group.
    rust::Box<bridge::Group> group;
    std::uint64_t number;
    /// Which members the group had.
    std::uint32_t generation;
    /// Of this rank: where it is, and what it is like.
    void* data;
    std::vector<std::int64_t> sizes;
    at::ScalarType dtype;
    std::size_t bytes;
    /// Kept, if the window owns it.
    at::Tensor tensor;
  };

  /// ValueError if nothing is, or the group's members are others.
  const Registered& registered(const char* operation) const;
  bool is_current() const;
  /// What a collective call into the core returns, which may block.
  template <class Function>
  auto blocking(Function&& function) const;
  Launch launch(bridge::Operation operation, const char* title, std::int64_t rank, std::chrono::milliseconds timeout,
                bool async_op) const;

  const ForkGuard owner_;
  const c10::intrusive_ptr<ProcessGroupRMPI> group_;
  std::optional<Registered> registered_;
};

}  // namespace rmpi

#endif
