#include "window.hpp"

#if TORCH_RMPI_HAS_WINDOW

#include <limits>
#include <memory>
#include <utility>

#include <ATen/ops/from_blob.h>

#include "errors.hpp"
#include "interrupt.hpp"

namespace rmpi {

namespace {

/// Keeps the memory of a window for as long as others may write into it.
class Owner final : public bridge::Completion {
 public:
  explicit Owner(c10::Storage storage) : storage_(std::move(storage)) {}

  void finish(bridge::ErrorKind, ::rust::Str, std::int32_t) noexcept override {}
  void announce() noexcept override {}
  bool announce_to_nobody() noexcept override { return true; }

 private:
  const c10::Storage storage_;
};

}  // namespace

bool ProcessGroupRMPI::supportsWindow() const { return true; }

c10::intrusive_ptr<c10d::Window> ProcessGroupRMPI::new_window(const std::optional<at::Tensor>& tensor) {
  core().owner.check("new_window");
  TORCH_CHECK_VALUE(c10::raw::intrusive_ptr::use_count(this) > 0,
                    "rmpi: new_window: the group has to be held by an intrusive_ptr, as a window keeps it.");
  auto window =
      c10::make_intrusive<WindowRMPI>(c10::intrusive_ptr<ProcessGroupRMPI>::unsafe_reclaim_from_nonowning(this));
  if (tensor) window->tensor_register(*tensor, true);
  return window;
}

WindowRMPI::WindowRMPI(c10::intrusive_ptr<ProcessGroupRMPI> group) : group_(std::move(group)) {}

template <class Function>
auto WindowRMPI::blocking(Function&& function) const {
  try {
    return call_interruptibly(std::forward<Function>(function));
  } catch (const c10::DistBackendError&) {
    if (group_->getError() != c10d::ErrorType::SUCCESS) group_->observers_->failed(group_->observers_->generation());
    throw;
  }
}

WindowRMPI::~WindowRMPI() {
  if (!registered_) return;
  if (owner_.in_owner()) {
    registered_->group->abandon_window(registered_->number);
  } else {
    // In a forked child the group belongs to an MPI that does not exist there: leave it alone.
    (void)registered_->group.into_raw();
  }
}

bool WindowRMPI::is_current() const {
  return group_->core_ && group_->observers_->generation() == registered_->generation;
}

const WindowRMPI::Registered& WindowRMPI::registered(const char* operation) const {
  group_->core().owner.check(operation);
  TORCH_CHECK_VALUE(registered_, "rmpi: ", operation,
                    ": the window has no tensor; call tensor_register on every rank.");
  TORCH_CHECK_VALUE(is_current(), "rmpi: ", operation, ": the window is of members that the group had before.");
  return *registered_;
}

void WindowRMPI::tensor_register(const at::Tensor& tensor, bool owning) {
  auto& core = group_->core();
  const auto check = core.check("tensor_register");
  check.output("the tensor", tensor);
  TORCH_CHECK_VALUE(tensor.is_contiguous(),
                    "rmpi: tensor_register: the tensor is not contiguous; others write into its memory as it is.");
  TORCH_CHECK_VALUE(!registered_, "rmpi: tensor_register: the window has a tensor; call tensor_deregister first.");
  const auto region = write_region(tensor);
  const auto dtype = static_cast<std::uint64_t>(tensor.scalar_type());
  // If this thread is interrupted, the window stays registered, and keeps its memory, until the group ends: others may
  // have it mapped.
  const auto number = blocking(
      [group = core.group->share(), region, dtype, owner = std::make_unique<Owner>(tensor.storage())]() mutable {
        return call_core([&] { return group->register_window(region, dtype, std::move(owner)); });
      });
  registered_ = Registered{
      core.group->share(),  number,       group_->observers_->generation(), region.data, tensor.sizes().vec(),
      tensor.scalar_type(), region.bytes, owning ? tensor : at::Tensor()};
}

void WindowRMPI::tensor_deregister() {
  const auto number = registered("tensor_deregister").number;
  blocking([group = registered_->group->share(), number] { call_core([&] { group->deregister_window(number); }); });
  registered_.reset();
}

Launch WindowRMPI::launch(bridge::Operation operation, const char* title, std::int64_t rank,
                          std::chrono::milliseconds timeout, bool async_op) const {
  Launch launch(operation, c10d::OpType::UNKNOWN, title, timeout, async_op);
  launch.call.window = registered_->number;
  launch.call.root = rank;
  return launch;
}

c10::intrusive_ptr<c10d::Work> WindowRMPI::put(const at::Tensor& tensor, std::int64_t rank, std::int64_t offset,
                                               bool async_op, const c10d::PutOptions& opts) {
  auto& core = group_->core();
  const auto check = core.check("put");
  const auto& window = registered("put");
  check.input("the tensor", tensor);
  TORCH_CHECK_TYPE(tensor.scalar_type() == window.dtype, "rmpi: put: the tensor has dtype ", tensor.scalar_type(),
                   ", but the window has ", window.dtype, ".");
  const auto size = static_cast<std::int64_t>(tensor.element_size());
  TORCH_CHECK_VALUE(offset >= 0 && offset <= std::numeric_limits<std::int64_t>::max() / size,
                    "rmpi: put: an offset of ", offset, " elements; it has to be 0 or more, and inside the window.");
  auto launch = this->launch(bridge::Operation::Put, "rmpi:put", rank, opts.timeout, async_op);
  launch.call.offset = static_cast<std::uint64_t>(offset * size);
  launch.profiled = tensor;
  launch.inputs.push_back(read_region(launch.staging.input(tensor)));
  return core.issue(std::move(launch));
}

c10::intrusive_ptr<c10d::Work> WindowRMPI::signal(std::int64_t rank, bool async_op, const c10d::SignalOptions& opts) {
  auto& core = group_->core();
  const auto check = core.check("signal");
  registered("signal");
  return core.issue(launch(bridge::Operation::Signal, "rmpi:signal", rank, opts.timeout, async_op));
}

c10::intrusive_ptr<c10d::Work> WindowRMPI::wait_signal(std::int64_t rank, bool async_op,
                                                       const c10d::WaitSignalOptions& opts) {
  auto& core = group_->core();
  const auto check = core.check("wait_signal");
  registered("wait_signal");
  return core.issue(launch(bridge::Operation::WaitSignal, "rmpi:wait_signal", rank, opts.timeout, async_op));
}

at::Tensor WindowRMPI::map_remote_tensor(std::int64_t rank) {
  auto& core = group_->core();
  const auto check = core.check("map_remote_tensor");
  const auto& window = registered("map_remote_tensor");
  TORCH_CHECK_VALUE(rank >= 0 && rank < core.size, "rmpi: map_remote_tensor: rank ", rank,
                    " is out of range for a group of ", core.size, " ranks.");
  const auto options = at::TensorOptions(window.dtype);
  if (rank == core.rank) {
    return window.tensor.defined() ? window.tensor : at::from_blob(window.data, window.sizes, options);
  }
  const auto mapping = std::make_shared<rust::Box<bridge::Mapping>>(
      call_core([&] { return core.group->map_window(window.number, static_cast<std::size_t>(rank)); }));
  const auto region = (*mapping)->region();
  // The other rank's tensor may have another shape.
  const auto count = static_cast<std::int64_t>(region.bytes / c10::elementSize(window.dtype));
  const auto sizes = region.bytes == window.bytes ? window.sizes : std::vector<std::int64_t>{count};
  return at::from_blob(region.data, sizes, [mapping](void*) {}, options);
}

c10d::WindowAttr WindowRMPI::get_attr(std::int64_t rank) {
  auto& core = group_->core();
  const auto& window = registered("get_attr");
  TORCH_CHECK_VALUE(rank >= 0 && rank < core.size, "rmpi: get_attr: rank ", rank, " is out of range for a group of ",
                    core.size, " ranks.");
  const bool is_unified =
      call_core([&] { return core.group->is_window_unified(window.number, static_cast<std::size_t>(rank)); });
  return {is_unified ? c10d::WindowAccessType::UNIFIED : c10d::WindowAccessType::SEPARATE};
}

}  // namespace rmpi

#endif
