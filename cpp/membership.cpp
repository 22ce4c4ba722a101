// Groups made of the members of a group, and a group that changes its members.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <c10/util/irange.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include "core.hpp"

namespace rmpi {
namespace {

using BackendPtr = c10::intrusive_ptr<c10d::Backend>;
using OptionsPtr = c10::intrusive_ptr<c10d::Backend::Options>;

/// torch's SHRINK_ABORT.
constexpr int kShrinkAbort = 1;

std::string joined(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const auto number : numbers) text += (text.empty() ? "" : ",") + std::to_string(number);
  return text;
}

/// Tells the options of a part of a group which ranks of the world its members are: the group of `size` ranks knows, or
/// whoever gave the options, or nobody.
void set_global_ranks(c10d::Backend::Options& options, const std::vector<std::uint64_t>& of_group, int size,
                      const std::vector<int>& ranks) {
  const bool is_known = of_group.size() == static_cast<std::size_t>(size);
  if (!is_known && options.global_ranks_in_group.size() == ranks.size()) return;
  options.global_ranks_in_group.clear();
  if (!is_known) return;
  for (const auto rank : ranks) options.global_ranks_in_group.push_back(of_group[rank]);
}

/// Position of `rank` among `ranks`, or -1.
int position(const std::vector<int>& ranks, int rank) {
  const auto found = std::find(ranks.begin(), ranks.end(), rank);
  return found == ranks.end() ? -1 : static_cast<int>(found - ranks.begin());
}

template <class Integer>
void check_ranks(const char* operation, const std::vector<Integer>& ranks, int size) {
  auto sorted = ranks;
  std::sort(sorted.begin(), sorted.end());
  for (const auto rank : sorted) {
    TORCH_CHECK_VALUE(rank >= 0 && rank < size, "rmpi: ", operation, ": rank ", rank,
                      " is out of range for a group of ", size, " ranks.");
  }
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  TORCH_CHECK_VALUE(twice == sorted.end(), "rmpi: ", operation, ": rank ", *twice, " is named twice.");
}

}  // namespace

c10::intrusive_ptr<ProcessGroupRMPI::Options> ProcessGroupRMPI::child_options(const OptionsPtr& given) const {
  auto own = c10::dynamic_intrusive_pointer_cast<Options>(given);
  auto options = c10::make_intrusive<Options>(own ? *own : *options_);
  // Those of this group, if they are not given: not of the members it had once.
  if (!given && generation_.options) options->global_ranks_in_group = generation_.options->global_ranks_in_group;
  if (given && !own) {
    options->timeout = given->timeout;
    options->group_name = given->group_name;
    options->group_desc = given->group_desc;
    options->global_ranks_in_group = given->global_ranks_in_group;
  }
  options->take_unset_from(*options_);
#if TORCH_RMPI_HAS_RECONFIGURE
  options->enable_reconfigure = false;
#endif
  return options;
}

bool ProcessGroupRMPI::supportsSplitting() const { return true; }

BackendPtr ProcessGroupRMPI::split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                   const OptionsPtr& given) {
  core().owner.check("split");
  TORCH_CHECK_VALUE(store != nullptr, "rmpi: split needs a store, but it is null.");
  check_ranks("split", ranks, size_);
  const auto rank = position(ranks, rank_);
  if (rank < 0) return nullptr;
  auto options = child_options(given);
  set_global_ranks(*options, generation_.options->global_ranks_in_group, size_, ranks);
  return c10::make_intrusive<ProcessGroupRMPI>(store, rank, static_cast<int>(ranks.size()), std::move(options));
}

BackendPtr ProcessGroupRMPI::merge(const c10::intrusive_ptr<c10d::Store>& store, const OptionsPtr& given,
                                   const int& rank, const int& size) {
  if (core_) core_->owner.check("merge");
  auto options = child_options(given);
  // Ranks of this group say nothing of the others.
  if (!given || given->global_ranks_in_group.size() != static_cast<std::size_t>(size)) {
    options->global_ranks_in_group.clear();
  }
  return c10::make_intrusive<ProcessGroupRMPI>(store, rank, size, std::move(options));
}

bool ProcessGroupRMPI::supportsShrinking() const { return true; }

BackendPtr ProcessGroupRMPI::shrink(const std::vector<std::int64_t>& ranks_to_exclude, int flags,
                                    const OptionsPtr& given) {
  core().owner.check("shrink");
  check_ranks("shrink", ranks_to_exclude, size_);
  TORCH_CHECK_VALUE(flags == 0 || flags == kShrinkAbort, "rmpi: shrink: flags ", flags,
                    " are none of 0 and 1 (SHRINK_ABORT).");
  auto excluded = ranks_to_exclude;
  std::sort(excluded.begin(), excluded.end());
  std::vector<int> ranks;
  for (const auto rank : c10::irange(size_)) {
    if (!std::binary_search(excluded.begin(), excluded.end(), rank)) ranks.push_back(rank);
  }
  const auto rank = position(ranks, rank_);
  TORCH_CHECK_VALUE(rank >= 0, "rmpi: shrink: this rank, ", rank_,
                    ", is among those to exclude; only the others call it.");

  if (flags == kShrinkAbort) abort();
  auto options = child_options(given);
  const auto suffix = "shrunk:" + joined(excluded);
  if (!given || given->group_name.empty() || given->group_name == options_->group_name) {
    options->group_name = generation_.options->group_name + ":" + suffix;
  }
  set_global_ranks(*options, generation_.options->global_ranks_in_group, size_, ranks);
  const auto store = c10::make_intrusive<c10d::PrefixStore>(suffix, generation_.store);
  return c10::make_intrusive<ProcessGroupRMPI>(store, rank, static_cast<int>(ranks.size()), std::move(options));
}

#if TORCH_RMPI_HAS_RECONFIGURE
namespace {

constexpr const char* kHandlePrefix = "rmpi:";

std::vector<c10d::ReconfigureHandle> in_rank_order(const c10d::ReconfigureOptions& opts) {
  if (const auto* ordered = std::get_if<std::vector<c10d::ReconfigureHandle>>(&opts.handles)) return *ordered;
  const auto& any = std::get<std::unordered_set<c10d::ReconfigureHandle>>(opts.handles);
  std::vector<c10d::ReconfigureHandle> handles(any.begin(), any.end());
  // The rank in MPI_COMM_WORLD comes first, with as many digits in each.
  std::sort(handles.begin(), handles.end());
  return handles;
}

}  // namespace

bool ProcessGroupRMPI::supportsReconfigure() const { return true; }

c10d::ReconfigureHandle ProcessGroupRMPI::get_reconfigure_handle() const {
  start(options_->timeout);
  char handle[64];
  std::snprintf(handle, sizeof(handle), "%s%08d:%ld:%llu", kHandlePrefix, world_rank(), static_cast<long>(getpid()),
                static_cast<unsigned long long>(instance_));
  return handle;
}

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::reconfigure(const c10d::ReconfigureOptions& opts) {
  const auto handles = in_rank_order(opts);
  for (const auto& handle : handles) {
    TORCH_CHECK_VALUE(
        handle.starts_with(kHandlePrefix), "rmpi: reconfigure: \"", handle,
        "\" is not a handle of this backend; give what get_reconfigure_handle() of each member returned.");
  }
  auto sorted = handles;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  TORCH_CHECK_VALUE(twice == sorted.end(), "rmpi: reconfigure: the handle \"", *twice, "\" is given twice.");
  const auto own = std::find(handles.begin(), handles.end(), get_reconfigure_handle());
  TORCH_CHECK_VALUE(own != handles.end(), "rmpi: reconfigure: this group's own handle is not among the ",
                    handles.size(), " that were given; only members call it.");
  TORCH_CHECK_VALUE(!used_uuids_.contains(opts.uuid), "rmpi: reconfigure: the uuid ", opts.uuid,
                    " was used before on this group; each needs a new one.");
  const auto timeout = opts.timeout.value_or(options_->timeout);
  TORCH_CHECK_VALUE(timeout.count() >= 0, "rmpi: reconfigure: a timeout of ", timeout.count(), " ms is negative.");

  used_uuids_.insert(opts.uuid);
  leave("reconfigure");
  is_suspended_ = false;
  const auto name = "reconfigured:" + std::to_string(opts.uuid);
  const auto rank = static_cast<int>(own - handles.begin());
  const auto size = static_cast<int>(handles.size());
  // Groups of other members may use the same number in the same store: they have no handle in common.
  Generation generation{c10::make_intrusive<c10d::PrefixStore>(name + ":" + handles.front(), store_),
                        c10::make_intrusive<Options>(*options_)};
  generation.options->group_name += ":" + name;
  // Positions in this group no longer say which ranks of the world its members are.
  generation.options->global_ranks_in_group.clear();
  auto meeting = *generation.options;
  meeting.timeout = timeout;
  core_ = connect(generation.store, rank, size, meeting);
  core_->group->set_timeout(options_->timeout.count());
  generation_ = std::move(generation);
  rank_ = rank;
  size_ = size;

  auto work = c10::make_intrusive<WorkRMPI>(observers_, rank_, c10d::OpType::UNKNOWN, nullptr,
                                            c10::ArrayRef<at::Tensor>(), WorkRMPI::Results(), std::nullopt);
  work->finish_at_once(-1);
  return work;
}

#endif

void ProcessGroupRMPI::leave(const char* operation) {
  if (!core_) return;
  core_->owner.check(operation);
  observers_->expect_failure();
  if (!core_->group->quiesce(0)) core_->group->abort("the group was reconfigured");
  core_->shutdown();
  observers_->begin_generation();
  core_.reset();
}

void ProcessGroupRMPI::throw_not_connected() const {
  C10_THROW_ERROR(DistBackendError,
                  is_suspended_
                      ? "rmpi: this group is suspended; call resume() on every rank first."
                      : "rmpi: this group has no members: it was created with enable_reconfigure, or could not "
                        "be reconfigured. Call reconfigure() first.");
}

void ProcessGroupRMPI::suspend() {
  TORCH_CHECK_VALUE(core().group->quiesce(0),
                    "rmpi: suspend: operations of the group are under way; wait for them on every rank first.");
  leave("suspend");
  is_suspended_ = true;
}

void ProcessGroupRMPI::resume() {
  TORCH_CHECK_VALUE(is_suspended_, "rmpi: resume: the group is not suspended.");
  auto options = *generation_.options;
  options.timeout = options_->timeout;
  core_ = connect(c10::make_intrusive<c10d::PrefixStore>("resumed", generation_.store), rank_, size_, options);
  is_suspended_ = false;
}

}  // namespace rmpi
