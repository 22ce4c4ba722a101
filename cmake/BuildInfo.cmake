# Writes torch_rmpi/_build_info.py: what this build was made with.
#
# Gives: RMPI_BUILD_INFO  the path of the file

# The version of an MPI may have several lines.
string(STRIP "${RMPI_MPI_LIBRARY_VERSION}" _mpi_version)
string(REPLACE "\\" "\\\\" _mpi_version "${_mpi_version}")
string(REPLACE "\"" "\\\"" _mpi_version "${_mpi_version}")
string(REPLACE "\t" "\\t" _mpi_version "${_mpi_version}")
string(REPLACE "\n" "\\n" _mpi_version "${_mpi_version}")

set(RMPI_BUILD_INFO "${CMAKE_CURRENT_BINARY_DIR}/_build_info.py")
configure_file("${CMAKE_CURRENT_LIST_DIR}/_build_info.py.in" "${RMPI_BUILD_INFO}" @ONLY)
