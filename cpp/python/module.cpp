// The Python extension torch_rmpi._C: the process group as a torch.distributed backend, and what the rendezvous needs.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/chrono.h>
#include <torch/csrc/utils/pybind.h>

#include <torch_rmpi/process_group_rmpi.hpp>

#include "work.hpp"

namespace py = pybind11;

namespace {

using Group = rmpi::ProcessGroupRMPI;
using Milliseconds = std::chrono::milliseconds;

bool python_is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Python's signal handlers run only on its main thread, when that asks, and a thread that waits in C++ asks nobody.
void check_python_signals(unsigned long main_thread) {
  if (PyThread_get_thread_ident() != main_thread || !Py_IsInitialized() || python_is_finalizing()) return;
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// How long operations that nobody has waited for may go on at the end.
constexpr Milliseconds kGrace{5000};
// How long a callback may go on when nobody waits for it any more.
constexpr Milliseconds kLastMoment{1000};

void flush_python_output() {
  for (const char* name : {"stdout", "stderr"}) {
    try {
      py::module_::import("sys").attr(name).attr("flush")();
    } catch (const py::error_already_set&) {
      // There is nothing left to write to.
    }
  }
}

// Tensors and callbacks of pending operations belong to Python, and no other thread may touch them once it finalizes.
// Callbacks that run are waited for, as Python waits for threads; after an exception or Ctrl-C only for a moment, since
// they may wait for a peer that never answers. Abort hooks save what explains an exception, and get longer.
void before_python_ends() {
  int status = py::hasattr(py::module_::import("sys"), "last_value") ? 1 : 0;
  bool quiet = false;
  try {
    const py::gil_scoped_release no_gil;
    if (status == 0) {
      rmpi::drain(kGrace);
      rmpi::await_callbacks();
    } else {
      rmpi::await_abort_hooks(rmpi::kAbortHookGrace);
    }
  } catch (const py::error_already_set&) {
    status = 128 + SIGINT;
  }
  {
    const py::gil_scoped_release no_gil;
    rmpi::before_interpreter_ends();
    // Ctrl-C has been heard already, or there is no reason for it.
    rmpi::set_interrupt_hook({});
    quiet = rmpi::await_callbacks(kLastMoment);
  }
  if (quiet) return;
  // Python would end the thread that runs it in the middle of C++ code, and the process with it.
  flush_python_output();
  std::fprintf(
      stderr,
      "torch-rmpi: a callback of a future or an abort hook still runs; the process ends without it, with status %d\n",
      status == 0 ? 1 : status);
  std::fflush(nullptr);
  _exit(status == 0 ? 1 : status);
}

c10::intrusive_ptr<Group> create(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, Milliseconds timeout,
                                 const std::string& group_name, const std::vector<std::uint64_t>& global_ranks,
                                 const c10::intrusive_ptr<Group::Options>& given,
                                 [[maybe_unused]] bool enable_reconfigure) {
  auto options = given ? c10::make_intrusive<Group::Options>(*given) : Group::Options::create();
  options->timeout = timeout;
  options->group_name = group_name;
  options->global_ranks_in_group = global_ranks;
#if TORCH_RMPI_HAS_RECONFIGURE
  options->enable_reconfigure = enable_reconfigure;
#endif
  return c10::make_intrusive<Group>(store, rank, size, std::move(options));
}

using Listed = std::vector<std::tuple<std::string, std::string, std::string, std::string>>;

Listed listed(const std::vector<rmpi::Setting>& settings) {
  Listed list;
  for (const auto& setting : settings) list.emplace_back(setting.name, setting.variable, setting.value, setting.source);
  return list;
}

// A store that serves other ranks must outlive this process's use of it, so this reference is never dropped.
void keep_alive(c10::intrusive_ptr<c10d::Store> store) {
  static auto* stores = new std::vector<c10::intrusive_ptr<c10d::Store>>;
  stores->push_back(std::move(store));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled part of torch_rmpi.";
  // Backend, Store and the exceptions are registered by torch.
  py::module_::import("torch.distributed");
  const auto main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  rmpi::set_main_thread(main_thread);
  rmpi::set_interrupt_hook([main_thread] { check_python_signals(main_thread); });
  py::module_::import("torch_rmpi._exit").attr("register")();
  m.def("_before_python_ends", &before_python_ends, "Called at the end of Python, by torch_rmpi._exit.");

  py::class_<Group, c10d::Backend, c10::intrusive_ptr<Group>> group(m, "ProcessGroupRMPI",
                                                                    "A process group over MPI; see create().");
  rmpi::register_work(m);
  // What torch's own binding of mem_allocator returns: torch knows only the allocators of accelerators.
  py::class_<rmpi::SharedAllocator, std::shared_ptr<rmpi::SharedAllocator>>(
      m, "SharedAllocator", "Gives memory that the other processes of the node can map; see Backend.mem_allocator.");
  py::class_<Group::Options, c10d::Backend::Options, c10::intrusive_ptr<Group::Options>>(m, "Options")
      .def(py::init(&Group::Options::create), py::arg("timeout") = kBackendDefaultTimeout)
      .def_readwrite("timeout", &Group::Options::timeout)
      .def_readwrite("group_name", &Group::Options::group_name)
      .def_readwrite("chunk_bytes", &Group::Options::chunk_bytes)
      .def_readwrite("inline_bytes", &Group::Options::inline_bytes)
      .def_readwrite("divide_bytes", &Group::Options::divide_bytes)
      .def_readwrite("stream_bytes", &Group::Options::stream_bytes)
      .def_readwrite("leader_bytes", &Group::Options::leader_bytes)
      .def_readwrite("gather_bytes", &Group::Options::gather_bytes)
      .def_readwrite("tree_bytes", &Group::Options::tree_bytes)
      .def_readwrite("spins", &Group::Options::spins)
      .def_readwrite("shm", &Group::Options::shm)
      .def_readwrite("single_copy", &Group::Options::single_copy);
  group.attr("Options") = m.attr("Options");
  group.def(
      "settings", [](const Group& self) { return listed(self.settings()); },
      "(name, variable, value, source) of each setting in force.");

  // torch binds these of Backend, too, and keeps the interpreter's lock meanwhile: they may wait for other ranks, or
  // for a thread that needs that lock.
  const py::call_guard<py::gil_scoped_release> no_gil;
  group.def("suspend", &Group::suspend, no_gil)
      .def("resume", &Group::resume, no_gil)
      .def("memory_stats", &Group::getMemoryStats, no_gil)
      .def("_start_time_estimate", &Group::startTimeEstimate, no_gil)
      .def("_end_time_estimate", &Group::endTimeEstimate, no_gil)
      .def("register_abort_hook", &Group::registerAbortHook, py::arg("hook_id"), py::arg("hook"), no_gil)
      .def("unregister_abort_hook", &Group::unregisterAbortHook, py::arg("hook_id"), no_gil)
      .def("split", &Group::split, py::arg("store"), py::arg("ranks"), py::arg("opts"), no_gil)
      .def("merge", &Group::merge, py::arg("store"), py::arg("opts"), py::arg("rank"), py::arg("size"), no_gil)
      .def("shrink", &Group::shrink, py::arg("ranks_to_exclude"), py::arg("shrink_flags") = 0,
           py::arg("opts_override") = nullptr, no_gil);

  m.def("create", &create, py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"),
        py::arg("group_name"), py::arg("global_ranks"), py::arg("options") = nullptr,
        py::arg("enable_reconfigure") = false, py::call_guard<py::gil_scoped_release>(),
        "Creates a group; every member calls it with a store that all share. Raises DistBackendError, naming the ranks "
        "that are missing, when they have not all come within the timeout. With enable_reconfigure it meets nobody: "
        "reconfigure() gives the group its members.");
  m.def("meet", &rmpi::meet, py::arg("store"), py::arg("rank"), py::arg("size"), py::arg("timeout"),
        py::arg("group_name"), py::call_guard<py::gil_scoped_release>(),
        "Waits at the store until all ranks of a group have come, unless MPI has been started here. Raises "
        "DistBackendError, naming the ranks that are missing, after the timeout.");
  m.def(
      "start", [](Milliseconds timeout) { rmpi::start(timeout); }, py::arg("timeout"),
      py::call_guard<py::gil_scoped_release>(),
      "Starts MPI when nobody has. Raises DistBackendError when the other processes have not come within the timeout.");
  m.def("world_rank", &rmpi::world_rank, py::call_guard<py::gil_scoped_release>(),
        "This process's rank in the MPI world. Starts MPI when nobody has.");
  m.def("world_size", &rmpi::world_size, py::call_guard<py::gil_scoped_release>(),
        "The number of processes in the MPI world. Starts MPI when nobody has.");
  m.def(
      "world_broadcast",
      [](const std::string& payload, std::int64_t timeout_ms) {
        return rmpi::world_broadcast(payload, Milliseconds(timeout_ms));
      },
      py::arg("payload"), py::arg("timeout_ms"), py::call_guard<py::gil_scoped_release>(),
      "Rank 0's payload on every rank. Collective over the MPI world.");
  m.def(
      "settings",
      [](const c10::intrusive_ptr<Group::Options>& options) {
        return listed(options ? rmpi::settings(*options) : rmpi::settings());
      },
      py::arg("options") = nullptr,
      "(name, variable, value, source) of each setting that a group with these options would have. Raises ValueError "
      "if "
      "an option or a variable is wrong. Does not start MPI.");
  m.def("keep_alive", &keep_alive, py::arg("store"), "Keeps a store until the process ends.");
  m.def("mpi_library_version", &rmpi::mpi_library_version, "What the MPI library says of itself. Does not start MPI.");
  m.def("version", &rmpi::version, "The version of torch-rmpi.");
}
