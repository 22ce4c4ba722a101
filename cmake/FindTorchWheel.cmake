# Finds the torch that the Python interpreter would import, and makes imported targets of its libraries.
#
# `find_package(Torch)` demands a CUDA toolkit when the wheel was built with CUDA, which this project does not need.
#
# Needs: Python_EXECUTABLE
# Gives: TorchWheel_FOUND, TorchWheel_VERSION, TorchWheel_ROOT (the folder of the package `torch`),
#        TorchWheel_LIBRARY_DIR, and the targets
#        TorchWheel::torch_cpu      libtorch_cpu and libc10, with the include folders
#        TorchWheel::torch_python   libtorch_python, for Python extensions

# The specification is enough: importing torch takes seconds.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
  OUTPUT_VARIABLE TorchWheel_ROOT
  OUTPUT_STRIP_TRAILING_WHITESPACE
  WORKING_DIRECTORY "${CMAKE_CURRENT_LIST_DIR}" COMMAND_ERROR_IS_FATAL ANY)

if(TorchWheel_ROOT)
  file(STRINGS "${TorchWheel_ROOT}/version.py" _torch_version_line REGEX "^__version__ = ")
  string(REGEX REPLACE "^__version__ = '([^']+)'.*" "\\1" TorchWheel_FULL_VERSION "${_torch_version_line}")
  string(REGEX MATCH "^[0-9]+\\.[0-9]+\\.[0-9]+" TorchWheel_VERSION "${TorchWheel_FULL_VERSION}")
  set(TorchWheel_LIBRARY_DIR "${TorchWheel_ROOT}/lib")
endif()

# Not cached: another torch in the same environment must be noticed by the next configuration.
foreach(_name IN ITEMS c10 torch_cpu torch_python)
  set(_file "${TorchWheel_LIBRARY_DIR}/lib${_name}.so")
  if(EXISTS "${_file}")
    set(_torch_${_name} "${_file}")
  else()
    set(_torch_${_name} "_torch_${_name}-NOTFOUND")
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TorchWheel
  REQUIRED_VARS TorchWheel_ROOT _torch_c10 _torch_torch_cpu _torch_torch_python
  VERSION_VAR TorchWheel_VERSION HANDLE_VERSION_RANGE
  REASON_FAILURE_MESSAGE
    "${Python_EXECUTABLE} finds no torch. Install one (`pip install torch`) and build with `pip install --no-build-isolation .`")

if(TorchWheel_FOUND AND NOT TARGET TorchWheel::torch_cpu)
  add_library(TorchWheel::c10 SHARED IMPORTED)
  set_target_properties(TorchWheel::c10 PROPERTIES IMPORTED_LOCATION "${_torch_c10}")

  add_library(TorchWheel::torch_cpu SHARED IMPORTED)
  set_target_properties(TorchWheel::torch_cpu PROPERTIES IMPORTED_LOCATION "${_torch_torch_cpu}")
  target_link_libraries(TorchWheel::torch_cpu INTERFACE TorchWheel::c10)
  target_compile_features(TorchWheel::torch_cpu INTERFACE cxx_std_20)
  # System folders: warnings in torch's headers are not ours.
  target_include_directories(
    TorchWheel::torch_cpu SYSTEM INTERFACE "${TorchWheel_ROOT}/include"
                                           "${TorchWheel_ROOT}/include/torch/csrc/api/include")
  # Without them the headers leave out much of c10d; torch's own CMake targets set them too.
  target_compile_definitions(TorchWheel::torch_cpu INTERFACE USE_DISTRIBUTED USE_RPC)

  add_library(TorchWheel::torch_python SHARED IMPORTED)
  set_target_properties(TorchWheel::torch_python PROPERTIES IMPORTED_LOCATION "${_torch_torch_python}")
  target_link_libraries(TorchWheel::torch_python INTERFACE TorchWheel::torch_cpu)
endif()
