// The MPI process group of torch-rmpi, for C++ programs and for the Python extension.
//
// A C++ program starts under mpirun and needs no Python:
//
//   auto store = c10::make_intrusive<c10d::FileStore>(path, rmpi::world_size());
//   rmpi::ProcessGroupRMPI group(store, rmpi::world_rank(), rmpi::world_size());
//   std::vector<at::Tensor> tensors{gradient};
//   group.allreduce(tensors)->wait();
//   group.shutdown();
//
// Threads: every function may be called from any thread. Collectives of one group run in the order in which they were
// issued, so threads that share a group must issue them in the same order on every rank.
//
// Errors: c10::ValueError, c10::TypeError and c10::NotImplementedError for arguments, before anything moves;
// c10::DistBackendError for a timeout, a failed peer, a failed MPI call or an aborted group.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <c10/core/Allocator.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <torch/csrc/distributed/c10d/Types.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include <torch_rmpi/torch_version.hpp>
#if TORCH_RMPI_HAS_COMPLETION_HOOKS
#include <torch/csrc/distributed/c10d/Hooks.hpp>
#endif

#define RMPI_API __attribute__((visibility("default")))

namespace rmpi {

/// The name under which the backend is registered.
inline constexpr const char* kBackendName = "rmpi";

/// A setting of a group, as it is in force.
struct Setting {
  /// As in `ProcessGroupRMPI::Options`.
  std::string name;
  /// The environment variable.
  std::string variable;
  /// Written as the variable takes it.
  std::string value;
  /// "options", "variable" or "default".
  std::string source;
};

/// Gives memory that the other processes of the node can map; see ProcessGroupRMPI::getMemAllocator.
class RMPI_API SharedAllocator : public c10::Allocator {
 public:
  /// NotImplementedError if the system has no such memory, or no more.
  c10::DataPtr allocate(std::size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* dest, const void* src, std::size_t count) const override;
};

class EphemeralTimeout;
class Observers;
class WindowRMPI;

/// A c10d process group whose members are processes of one MPI job. The members need not be the whole job, and their
/// ranks in the group need not be their MPI ranks.
class RMPI_API ProcessGroupRMPI : public c10d::Backend {
 public:
  struct RMPI_API Options : c10d::Backend::Options {
    explicit Options(std::chrono::milliseconds timeout = kBackendDefaultTimeout);
    static c10::intrusive_ptr<Options> create(std::chrono::milliseconds timeout = kBackendDefaultTimeout);
    c10::intrusive_ptr<c10d::Backend::Options> clone() const TORCH_RMPI_OVERRIDE_SINCE_2_14;

    /// Settings, for which docs/tuning.md says what they do. One that is not given here is that of its environment
    /// variable (TORCH_RMPI_CHUNK_BYTES for chunk_bytes), or else has a default. All but inline_bytes, stream_bytes and
    /// spins must be the same on every rank of the group; creating it raises DistBackendError on all of them otherwise,
    /// and ValueError if a value is out of range.
    std::optional<std::int64_t> chunk_bytes;
    std::optional<std::int64_t> inline_bytes;
    std::optional<std::int64_t> divide_bytes;
    std::optional<std::int64_t> stream_bytes;
    std::optional<std::int64_t> leader_bytes;
    std::optional<std::int64_t> gather_bytes;
    std::optional<std::int64_t> tree_bytes;
    std::optional<std::int64_t> spins;
    std::optional<bool> shm;
    /// "auto", "always" or "never".
    std::optional<std::string> single_copy;

    /// Takes the settings that are not given here from others.
    void take_unset_from(const Options& others);
  };

  /// Collective over the members: each calls it with its own rank and a store that all of them share. Starts MPI when
  /// nobody has. Throws DistBackendError, naming the ranks that are missing, when not all have come within
  /// `options->timeout`. With `options->enable_reconfigure` it meets nobody, and the group is of no use until
  /// reconfigure() has been called.
  ProcessGroupRMPI(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                   c10::intrusive_ptr<Options> options = Options::create());

  /// Never blocks. Operations that are still running keep their memory until they have ended.
  ~ProcessGroupRMPI() override;

  ProcessGroupRMPI(const ProcessGroupRMPI&) = delete;
  ProcessGroupRMPI& operator=(const ProcessGroupRMPI&) = delete;

  const std::string getBackendName() const override;
  c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override;
  void setTimeout(std::chrono::milliseconds timeout) override;
  /// Adds to the timeout of every operation issued from now on, until the first of them has ended. Extensions add up,
  /// and each ends by itself.
  void addEphemeralTimeout(const std::chrono::milliseconds& extension) TORCH_RMPI_OVERRIDE_SINCE_2_14;
  /// The settings in force.
  std::vector<Setting> settings() const;
  uint64_t getSequenceNumberForGroup() override;
  c10d::ErrorType getError() override;

  /// False until reconfigure() connects a group that was created with `enable_reconfigure`.
  bool isInitialized() TORCH_RMPI_OVERRIDE_SINCE_2_15;

  // Groups of the members of this one. Nothing is shared with it: both can be used at the same time.

  bool supportsSplitting() const override;
  /// A group of the members with these ranks, in this order; all of them call it. Null on a rank that is not among
  /// them. Settings that `options` does not have are those of this group.
  c10::intrusive_ptr<c10d::Backend> split(const c10::intrusive_ptr<c10d::Store>& store, const std::vector<int>& ranks,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& options) override;
  /// A group of `size` processes that share `store`, whether they are members of this one or not.
  c10::intrusive_ptr<c10d::Backend> merge(const c10::intrusive_ptr<c10d::Store>& store,
                                          const c10::intrusive_ptr<c10d::Backend::Options>& options, const int& rank,
                                          const int& size) override;
  bool supportsShrinking() const override;
  /// A group of all members but those with these ranks, in the same order; all that remain call it, and the others must
  /// not. With `flags` 1 (torch's SHRINK_ABORT) operations under way on this group are aborted before.
  c10::intrusive_ptr<c10d::Backend> shrink(
      const std::vector<std::int64_t>& ranks_to_exclude, int flags = 0,
      const c10::intrusive_ptr<c10d::Backend::Options>& options = nullptr) override;

#if TORCH_RMPI_HAS_RECONFIGURE
  bool supportsReconfigure() const override;
  /// Stands for this process and this object in `reconfigure`. Starts MPI when nobody has.
  c10d::ReconfigureHandle get_reconfigure_handle() const override;
  /// Replaces the members of this group by the processes with these handles; all of them call it with the same `uuid`
  /// and handles, and their groups were created with one store. Ranks are positions in a vector of handles; in a set
  /// they follow the ranks in MPI_COMM_WORLD. Operations under way are aborted. Returns when the members have met, with
  /// a Work that has ended. No other thread may use the group meanwhile. Throws ValueError for handles among which this
  /// group's is not, or that are not from this backend, and for a `uuid` used before; DistBackendError, naming the
  /// ranks that are missing, when not all have come in time: then the group has no members, and may be reconfigured
  /// again.
  c10::intrusive_ptr<c10d::Work> reconfigure(const c10d::ReconfigureOptions& opts) override;
#endif

  /// Waits for the operations under way, ends those that are still pending after ten seconds, then frees the
  /// communicators. May be called again.
  void shutdown() override;
  /// Fails every operation under way and every later one.
  void abort() override;

  /// Gives back what the group occupies: shared memory and communicators. Every rank calls it, with no operation under
  /// way (ValueError otherwise) and no other thread using the group. Works that somebody still holds keep the memory.
  /// Until resume() operations raise DistBackendError.
  void suspend() override;
  /// Takes it back. Every rank calls it; DistBackendError, naming the ranks that are missing, when not all have come
  /// within the group's timeout, and then it may be called again. Sequence numbers begin at 0 again.
  void resume() override;
  /// "shared_bytes": memory that the ranks of this node share for the group, of which pages count when they have been
  /// written; "own_shared_bytes": the part that this rank writes; "pending_operations". All 0 while it is suspended. Of
  /// all groups of the process: "tensor_bytes", of the tensors from allocateTensor and getMemAllocator;
  /// "tensor_reserved_bytes", which they take of the address space.
  std::unordered_map<std::string, std::uint64_t> getMemoryStats() override;

  // Tensors that the other processes of the node can map: long operations read them in place of copies, and windows put
  // into them directly. They are of any group, may outlive it, and are for everything that other tensors are for. A
  // process that is forked shares them with its parent, as it does no other tensor: what one writes the other sees.

  /// Whether this system has such memory.
  bool supportsTensorAlloc(c10::DeviceIndex device) override;
  /// A tensor of `size` elements, uninitialized, on the CPU. ValueError for another device, layout or pinned memory;
  /// NotImplementedError where supportsTensorAlloc says false, or the system gives no more.
  at::Tensor allocateTensor(long size, at::TensorOptions options = {}) override;
  /// The same memory, for whatever takes an allocator: a SharedAllocator, one for all groups.
  std::shared_ptr<c10::Allocator> getMemAllocator() override;

#if TORCH_RMPI_HAS_WINDOW
  bool supportsWindow() const override;
  /// A window: memory of each rank, of one dtype, that the other ranks write into while its owner does something else.
  /// Every rank calls it, in the order of collectives; with `tensor`, which has to be contiguous, on all or on none.
  /// The group has to be held by an intrusive_ptr; the window keeps it.
  ///
  /// The Work of a put has ended when the data is there. A signal comes after what this rank has put before, and ends
  /// one wait_signal for this rank. On one node, tensors of allocateTensor are written directly and can be mapped; into
  /// other memory its owner's engine receives. A window keeps the memory of its tensor, whether `owning` or not, until
  /// it is deregistered or dropped. The tensors may be of different lengths. What does not fit is a ValueError, before
  /// anything moves; map_remote_tensor of memory that cannot be mapped is a NotImplementedError.
  c10::intrusive_ptr<c10d::Window> new_window(const std::optional<at::Tensor>& tensor = std::nullopt) override;
#endif

  // Hooks. Completion hooks run on whichever thread finds that an operation has ended, with no lock held that
  // operations need, and before anybody who waits for it goes on; so they have to be short, must not wait for an
  // operation, and may issue none. What a hook throws is logged. A hook that is registered under a number that is in
  // use takes its place.

  /// Abort hooks run once, on a thread of their own, when an operation of the group has failed or timed out, which ends
  /// the group. Whoever waits for it goes on when they have run, or after half a second. The end of the process waits
  /// for them, for kAbortHookGrace at most; see await_abort_hooks().
  bool supportsAbortHooks() const TORCH_RMPI_OVERRIDE_SINCE_2_15;
  void registerAbortHook(std::int64_t hook_id, std::function<void()> hook) TORCH_RMPI_OVERRIDE_SINCE_2_14;
  void unregisterAbortHook(std::int64_t hook_id) TORCH_RMPI_OVERRIDE_SINCE_2_14;
#if TORCH_RMPI_HAS_COMPLETION_HOOKS
  /// Completion hooks run once for each Work that has ended well: also for the Work of a batch, after its members'.
  bool supportsCompletionHooks() const override;
  void registerCompletionHook(std::int64_t hook_id, c10d::CompletionHook hook) override;
  void unregisterCompletionHook(std::int64_t hook_id) override;
#endif
  /// Unlike those above, this hook may take its time and issue operations: a thread of its own tells it of every
  /// operation that has ended well, batches member by member. Operations are slower with it, and timed. One for each
  /// group.
  void registerOnCompletionHook(std::function<void(std::shared_ptr<c10d::WorkInfo>)>&& hook) override;
  /// Waits until every operation issued so far has ended, and the hook above has been told.
  void waitForPendingWorks() override;
  /// Has the group time its operations from now on: for Work::getDuration, and for completion hooks.
  void enableCollectivesTiming() override;

  c10::intrusive_ptr<c10d::Work> broadcast(std::vector<at::Tensor>& tensors,
                                           const c10d::BroadcastOptions& opts = c10d::BroadcastOptions()) override;

  /// A sparse COO tensor is exchanged with its indices; that form waits for the other ranks before it returns.
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& opts = c10d::AllreduceOptions()) override;
  c10::intrusive_ptr<c10d::Work> allreduce_sparse(
      std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& opts = c10d::AllreduceOptions()) override;
  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(
      std::vector<at::Tensor>& tensors,
      const c10d::AllreduceCoalescedOptions& opts = c10d::AllreduceCoalescedOptions()) override;

  c10::intrusive_ptr<c10d::Work> reduce(std::vector<at::Tensor>& tensors,
                                        const c10d::ReduceOptions& opts = c10d::ReduceOptions()) override;

  /// The tensors of different ranks may differ in size.
  c10::intrusive_ptr<c10d::Work> allgather(std::vector<std::vector<at::Tensor>>& outputs,
                                           std::vector<at::Tensor>& inputs,
                                           const c10d::AllgatherOptions& opts = c10d::AllgatherOptions()) override;
  c10::intrusive_ptr<c10d::Work> TORCH_RMPI_ALL_GATHER_SINGLE(
      at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& opts = c10d::AllgatherOptions()) override;
  c10::intrusive_ptr<c10d::Work> allgather_coalesced(
      std::vector<std::vector<at::Tensor>>& output_lists, std::vector<at::Tensor>& inputs,
      const c10d::AllgatherOptions& opts = c10d::AllgatherOptions()) override;
  c10::intrusive_ptr<c10d::Work> TORCH_RMPI_ALL_GATHER_SINGLE_COALESCED(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
      const c10d::AllgatherOptions& opts = c10d::AllgatherOptions()) override;

  c10::intrusive_ptr<c10d::Work> gather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                                        const c10d::GatherOptions& opts = c10d::GatherOptions()) override;
  c10::intrusive_ptr<c10d::Work> gather_single(at::Tensor& output, at::Tensor& input,
                                               const c10d::GatherOptions& opts = c10d::GatherOptions())
      TORCH_RMPI_OVERRIDE_SINCE_2_14;

  c10::intrusive_ptr<c10d::Work> scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                                         const c10d::ScatterOptions& opts = c10d::ScatterOptions()) override;

  c10::intrusive_ptr<c10d::Work> reduce_scatter(
      std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
      const c10d::ReduceScatterOptions& opts = c10d::ReduceScatterOptions()) override;
  c10::intrusive_ptr<c10d::Work> TORCH_RMPI_REDUCE_SCATTER_SINGLE(
      at::Tensor& output, at::Tensor& input,
      const c10d::ReduceScatterOptions& opts = c10d::ReduceScatterOptions()) override;
  c10::intrusive_ptr<c10d::Work> TORCH_RMPI_REDUCE_SCATTER_SINGLE_COALESCED(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
      const c10d::ReduceScatterOptions& opts = c10d::ReduceScatterOptions()) override;

  /// Split sizes count rows of dimension 0; empty lists split evenly.
  c10::intrusive_ptr<c10d::Work> TORCH_RMPI_ALL_TO_ALL_SINGLE(
      at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_split_sizes,
      std::vector<int64_t>& input_split_sizes, const c10d::AllToAllOptions& opts = c10d::AllToAllOptions()) override;
  c10::intrusive_ptr<c10d::Work> alltoall(std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
                                          const c10d::AllToAllOptions& opts = c10d::AllToAllOptions()) override;

  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& opts = c10d::BarrierOptions()) override;
  /// A barrier in which rank 0 names the ranks that did not come in time; its failure leaves the group usable.
  void monitoredBarrier(const c10d::BarrierOptions& opts = c10d::BarrierOptions(),
                        bool wait_all_ranks = false) override;

  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>& tensors, int destination, int tag) override;
  c10::intrusive_ptr<c10d::Work> recv(std::vector<at::Tensor>& tensors, int source, int tag) override;
  c10::intrusive_ptr<c10d::Work> recvAnysource(std::vector<at::Tensor>& tensors, int tag) override;

  /// Between these two calls the thread's operations on this group are only estimated: nothing moves, outputs keep
  /// their values, and each Work has ended when it is returned. endTimeEstimate gives the sum of the times from call to
  /// end, in microseconds; sums of several groups, or of operations that run side by side, are the caller's affair. The
  /// first startTimeEstimate of a group is collective: every rank calls it, in the order of collectives, and unless the
  /// process knows a group of this kind already it measures, which takes about a second on one node.
  bool supportsTimeEstimation() const override;
  void startTimeEstimate() TORCH_RMPI_OVERRIDE_SINCE_2_15;
  float endTimeEstimate() TORCH_RMPI_OVERRIDE_SINCE_2_15;

  /// Between these two calls the thread's operations on this group return at once, whatever their asyncOp says;
  /// endCoalescing returns one Work for all of them.
  bool supportsCoalescing() const override;
  void startCoalescing() override;
  c10::intrusive_ptr<c10d::Work> endCoalescing() override;

 private:
  friend class WindowRMPI;

  struct Core;

  /// DistBackendError if the group has no members.
  Core& core() const;
  [[noreturn]] void throw_not_connected() const;
  void prepare_estimates();
  std::unique_ptr<Core> connect(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                const Options& options) const;
  /// A copy of `given`, if those are options of this class; else of this group's, with what `given` says.
  c10::intrusive_ptr<Options> child_options(const c10::intrusive_ptr<c10d::Backend::Options>& given) const;

  /// Gives up the members: there may be others afterwards.
  void leave(const char* operation);

  const c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<Options> options_;
  /// The store in which the present members met, and the options with which they did.
  struct Generation {
    c10::intrusive_ptr<c10d::Store> store;
    c10::intrusive_ptr<Options> options;
  };
  Generation generation_;
  // No other object of this process ever has it.
  const std::uint64_t instance_;
  const std::shared_ptr<Observers> observers_;
  const std::shared_ptr<EphemeralTimeout> ephemeral_timeout_;
  // Null while the group has no members.
  std::unique_ptr<Core> core_;
  bool is_suspended_ = false;
  std::unordered_set<std::int64_t> used_uuids_;
};

/// Starts MPI when nobody has, which may wait for every process of the job; DistBackendError after `timeout`, if there
/// is one. Whoever calls it again goes on waiting.
RMPI_API void start(std::optional<std::chrono::milliseconds> timeout = std::nullopt);
/// This process's rank in the MPI world. Starts MPI when nobody has.
RMPI_API int world_rank();
/// The number of processes in the MPI world. Starts MPI when nobody has.
RMPI_API int world_size();
/// Rank 0's `payload` on every rank. Collective over the MPI world; DistBackendError after `timeout`.
RMPI_API std::string world_broadcast(const std::string& payload, std::chrono::milliseconds timeout);
/// Meets all `size` ranks of a group at the store, unless MPI has been started in this process: starting it may wait
/// for every process of the job, and knows no timeout. DistBackendError, naming the missing ranks, after `timeout`.
RMPI_API void meet(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, std::chrono::milliseconds timeout,
                   const std::string& group_name);
/// Lets pending operations end and their callbacks run; false when `limit` has passed.
RMPI_API bool drain(std::chrono::milliseconds limit);
/// Waits until no callback of a future and no abort hook runs or is due; false when `limit` has passed.
RMPI_API bool await_callbacks(std::optional<std::chrono::milliseconds> limit = std::nullopt);
/// How long the end of a process waits for abort hooks: longer than torch gives its flight recorder to write a trace.
inline constexpr std::chrono::seconds kAbortHookGrace{20};
/// Waits until no abort hook runs, for as long as `limit`: they outlast the error that they belong to if they are slow.
RMPI_API bool await_abort_hooks(std::optional<std::chrono::milliseconds> limit = std::nullopt);
/// For a host with an interpreter: the thread that ends it, as a pthread_t.
RMPI_API void set_main_thread(unsigned long thread);
/// For a host with an interpreter, before that ends, on its main thread and without the interpreter's lock: from then
/// on no callback is started and no tensor destroyed, as either may belong to the interpreter, and no other thread
/// returns from a wait. Takes a tenth of a second if one has just returned, which lets it come back to the interpreter
/// in time.
RMPI_API void before_interpreter_ends();

/// The settings that a group with these options would have, where they do not depend on its ranks. ValueError if an
/// option or a variable is wrong. Does not start MPI.
RMPI_API std::vector<Setting> settings(const ProcessGroupRMPI::Options& options = ProcessGroupRMPI::Options());

/// What the MPI library says of itself (MPI_Get_library_version). Does not start MPI.
RMPI_API std::string mpi_library_version();
/// The version of torch-rmpi.
RMPI_API std::string version();

/// Sets the function that every blocking call makes about ten times a second, on the thread that waits and with no lock
/// held. What it throws leaves that call; the operation goes on. An empty function removes it.
RMPI_API void set_interrupt_hook(std::function<void()> hook);

}  // namespace rmpi
