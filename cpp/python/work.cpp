#include "work.hpp"

#include <utility>

#include "../work_rmpi.hpp"

namespace rmpi {

/// How Python holds a Work. The layout is that of the holder of torch's own, from which pybind11 copies: one pointer.
template <typename T>
class WorkHolder {
 public:
  WorkHolder() = default;
  explicit WorkHolder(T* work) : work_(c10::intrusive_ptr<c10d::Work>::unsafe_reclaim_from_nonowning(work)) {}
  WorkHolder(const WorkHolder&) = default;
  WorkHolder& operator=(const WorkHolder&) = default;
  ~WorkHolder() {
    if (!work_ || PyGILState_Check() == 0) return;
    // Whatever the last reference takes along may need the interpreter's lock.
    const pybind11::gil_scoped_release no_gil;
    work_.reset();
  }

  T* get() const { return static_cast<T*>(work_.get()); }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
};

}  // namespace rmpi

PYBIND11_DECLARE_HOLDER_TYPE(T, rmpi::WorkHolder<T>, true);

namespace rmpi {

void register_work(pybind11::module_& m) {
  pybind11::class_<WorkRMPI, c10d::Work, WorkHolder<WorkRMPI>>(m, "Work", "An operation of the process group.");
}

}  // namespace rmpi
