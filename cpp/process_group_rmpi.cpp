// Construction, options and life cycle of a process group.
#include <torch_rmpi/process_group_rmpi.hpp>

#include <utility>

#include "core.hpp"
#include "errors.hpp"
#include "interrupt.hpp"
#include "store_exchange.hpp"

namespace rmpi {
namespace {

rust::Vec<bridge::Override> overrides_of(const ProcessGroupRMPI::Options& options) {
  rust::Vec<bridge::Override> overrides;
  const auto add = [&](const char* name, const auto& value, const auto& text_of) {
    if (value) overrides.push_back(bridge::Override{name, rust::String::lossy(text_of(*value))});
  };
  const auto number = [](std::int64_t value) { return std::to_string(value); };
  add("chunk_bytes", options.chunk_bytes, number);
  add("inline_bytes", options.inline_bytes, number);
  add("divide_bytes", options.divide_bytes, number);
  add("stream_bytes", options.stream_bytes, number);
  add("leader_bytes", options.leader_bytes, number);
  add("gather_bytes", options.gather_bytes, number);
  add("tree_bytes", options.tree_bytes, number);
  add("spins", options.spins, number);
  add("shm", options.shm, [](bool value) { return std::string(value ? "1" : "0"); });
  add("single_copy", options.single_copy, [](const std::string& value) { return value; });
  return overrides;
}

std::vector<Setting> listed(const rust::Vec<bridge::Setting>& settings) {
  std::vector<Setting> list;
  list.reserve(settings.size());
  for (const auto& setting : settings) {
    list.push_back({std::string(setting.name), std::string(setting.variable), std::string(setting.value),
                    std::string(setting.source)});
  }
  return list;
}

std::uint64_t next_instance() {
  static std::atomic<std::uint64_t> next{0};
  return next.fetch_add(1, std::memory_order_relaxed);
}

rust::Box<bridge::Group> create_group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                      const ProcessGroupRMPI::Options& options) {
  // What is wrong with the settings is said before the others are met, who would wait for this rank.
  settings(options);
  // MPI_Init may wait for every process of the job. Here is known who is missing.
  const auto presence = await_presence(*store, rank, size, options.timeout, options.group_name);
  start(options.timeout);
  const auto address =
      call_core([&] { return std::string(bridge::local_address(rust::String::lossy(options.group_name))); });
  const auto addresses = exchange_addresses(*store, address, rank, size, options.timeout, options.group_name);
  bridge::GroupOptions group_options;
  group_options.name = rust::String::lossy(options.group_name);
  group_options.description = rust::String::lossy(options.group_desc);
  group_options.timeout_ms = options.timeout.count();
  group_options.overrides = overrides_of(options);
  auto group = call_core(
      [&] { return bridge::create_group(addresses.of_ranks, static_cast<std::size_t>(rank), group_options); });
  // Which needs all ranks, once they have each other's addresses; nobody waits for what is done now.
  forget(*store, presence);
  forget(*store, addresses.meeting);
  return group;
}

}  // namespace

ProcessGroupRMPI::Options::Options(std::chrono::milliseconds timeout) : c10d::Backend::Options(kBackendName, timeout) {}

c10::intrusive_ptr<ProcessGroupRMPI::Options> ProcessGroupRMPI::Options::create(std::chrono::milliseconds timeout) {
  return c10::make_intrusive<Options>(timeout);
}

c10::intrusive_ptr<c10d::Backend::Options> ProcessGroupRMPI::Options::clone() const {
  return c10::make_intrusive<Options>(*this);
}

void ProcessGroupRMPI::Options::take_unset_from(const Options& others) {
  const auto take = [&](auto Options::* setting) {
    if (!(this->*setting)) this->*setting = others.*setting;
  };
  take(&Options::chunk_bytes);
  take(&Options::inline_bytes);
  take(&Options::divide_bytes);
  take(&Options::stream_bytes);
  take(&Options::leader_bytes);
  take(&Options::gather_bytes);
  take(&Options::tree_bytes);
  take(&Options::spins);
  take(&Options::shm);
  take(&Options::single_copy);
}

ProcessGroupRMPI::ProcessGroupRMPI(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                   c10::intrusive_ptr<Options> options)
    : c10d::Backend(rank, size),
      store_(store),
      options_(std::move(options)),
      instance_(next_instance()),
      observers_(std::make_shared<Observers>()),
      ephemeral_timeout_(std::make_shared<EphemeralTimeout>()) {
  TORCH_CHECK_VALUE(store != nullptr, "rmpi: creating a group needs a store, but it is null.");
  TORCH_CHECK_VALUE(options_ != nullptr, "rmpi: creating a group needs options, but they are null.");
  TORCH_CHECK_VALUE(size > 0 && rank >= 0 && rank < size, "rmpi: creating a group with rank ", rank, " of ", size,
                    "; a rank is 0 or greater and less than the size.");
#if TORCH_RMPI_HAS_RECONFIGURE
  if (options_->enable_reconfigure) {
    // What is wrong with the settings is said now.
    rmpi::settings(*options_);
    init();
    return;
  }
#endif
  core_ = connect(store, rank, size, *options_);
  generation_ = {store_, options_};
  init();
}

std::unique_ptr<ProcessGroupRMPI::Core> ProcessGroupRMPI::connect(const c10::intrusive_ptr<c10d::Store>& store,
                                                                  int rank, int size, const Options& options) const {
  return std::make_unique<Core>(create_group(store, rank, size, options), rank, size, observers_, ephemeral_timeout_);
}

ProcessGroupRMPI::~ProcessGroupRMPI() {
  // In a forked child the group belongs to an MPI that does not exist there: leave it alone.
  if (core_ && !core_->owner.in_owner()) (void)core_.release();
}

const std::string ProcessGroupRMPI::getBackendName() const { return kBackendName; }

c10::intrusive_ptr<c10d::Backend::Options> ProcessGroupRMPI::getBackendOptions() { return options_; }

void ProcessGroupRMPI::setTimeout(std::chrono::milliseconds timeout) {
  TORCH_CHECK_VALUE(timeout.count() >= 0, "rmpi: setTimeout: a timeout of ", timeout.count(), " ms is negative.");
  if (core_) {
    core_->owner.check("setTimeout");
    core_->group->set_timeout(timeout.count());
  }
  options_->timeout = timeout;
}

bool ProcessGroupRMPI::isInitialized() { return core_ != nullptr; }

std::vector<Setting> ProcessGroupRMPI::settings() const {
  core().owner.check("settings");
  return listed(core().group->settings());
}

uint64_t ProcessGroupRMPI::getSequenceNumberForGroup() {
  core().owner.check("getSequenceNumberForGroup");
  return core().group->sequence_number();
}

c10d::ErrorType ProcessGroupRMPI::getError() {
  if (!core_) return c10d::ErrorType::SUCCESS;
  core_->owner.check("getError");
  switch (core_->group->error_kind()) {
    case bridge::ErrorKind::None:
      return c10d::ErrorType::SUCCESS;
    case bridge::ErrorKind::Timeout:
      return c10d::ErrorType::TIMEOUT;
    default:
      return c10d::ErrorType::COMM_ERROR;
  }
}

void ProcessGroupRMPI::shutdown() {
  // A forked child has nothing to shut down: it may clean up what it inherited.
  if (!core_ || !core_->owner.in_owner()) return;
  core_->shutdown();
}

void ProcessGroupRMPI::abort() {
  if (!core_) return;
  core_->owner.check("abort");
  observers_->expect_failure();
  core_->group->abort("the process group was aborted");
}

bool ProcessGroupRMPI::supportsCoalescing() const { return true; }

void ProcessGroupRMPI::startCoalescing() { core().start_coalescing(); }

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::endCoalescing() { return core().end_coalescing(); }

std::vector<Setting> settings(const ProcessGroupRMPI::Options& options) {
  return listed(call_core([&] { return bridge::read_settings(overrides_of(options)); }));
}

}  // namespace rmpi
