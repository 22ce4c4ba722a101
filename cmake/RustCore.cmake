# Builds the Rust core with cargo.
#
# Needs: RMPI_MPICC_FOUND, RMPI_MPI_NAME, RMPI_CARGO_TARGET_DIR (may be empty), Python_EXECUTABLE
# Gives: rmpi::core      librmpi.a, whole, with the headers that cxx generates
#        RMPI_CARGO_DIR  where cargo builds

# mpi-sys does not notice when the MPI changes, so each MPI has its own folder.
if(RMPI_CARGO_TARGET_DIR)
  get_filename_component(RMPI_CARGO_DIR "${RMPI_CARGO_TARGET_DIR}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
else()
  string(MD5 _mpi_hash "${RMPI_MPI_SEEN} ${RMPI_MPI_LIBRARY_VERSION}")
  string(SUBSTRING "${_mpi_hash}" 0 8 _mpi_hash)
  set(RMPI_CARGO_DIR "${CMAKE_CURRENT_BINARY_DIR}/cargo-${RMPI_MPI_NAME}-${_mpi_hash}")
endif()

if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/Cargo.lock")
  set(_locked --locked)
endif()

# Cargo alone knows what must be rebuilt. It runs at every build, takes a moment when nothing changed, and then leaves
# its outputs untouched, so that nothing is linked again. The header is named: C++ that includes it is compiled again in the
# same build when it changes.
set(_core_library "${RMPI_CARGO_DIR}/release/librmpi.a")
set(_core_headers "${RMPI_CARGO_DIR}/cxxbridge")
add_custom_target(
  rmpi_core_build
  COMMAND
    "${CMAKE_COMMAND}" -E env "MPICC=${RMPI_MPICC_FOUND}" "CARGO_TARGET_DIR=${RMPI_CARGO_DIR}"
    "RMPI_PYTHON=${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/cargo.sh" build --release --lib --features bridge
    ${_locked}
  BYPRODUCTS "${_core_library}" "${_core_headers}/torch-rmpi/src/bridge.rs.h"
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  COMMENT "Building the Rust core"
  USES_TERMINAL VERBATIM)

file(MAKE_DIRECTORY "${_core_headers}")
add_library(rmpi_core_archive STATIC IMPORTED)
set_target_properties(rmpi_core_archive PROPERTIES IMPORTED_LOCATION "${_core_library}")
add_dependencies(rmpi_core_archive rmpi_core_build)

find_package(Threads REQUIRED)
add_library(rmpi_core INTERFACE)
add_library(rmpi::core ALIAS rmpi_core)
add_dependencies(rmpi_core rmpi_core_build)
target_include_directories(rmpi_core SYSTEM INTERFACE "${_core_headers}")
# Whole: nobody in C++ refers to the functions of the C interface, and they must be exported all the same.
target_link_libraries(rmpi_core INTERFACE "$<LINK_LIBRARY:WHOLE_ARCHIVE,rmpi_core_archive>" Threads::Threads
                                          ${CMAKE_DL_LIBS} m)
