// What differs between the PyTorch releases that torch-rmpi supports (2.13 to 2.15). This is the one place that looks
// at the version; PyTorch's own feature macros are not precise enough.
#pragma once

#include <torch/headeronly/version.h>

#define TORCH_RMPI_TORCH_AT_LEAST(major, minor) \
  (TORCH_VERSION_MAJOR > (major) || (TORCH_VERSION_MAJOR == (major) && TORCH_VERSION_MINOR >= (minor)))

#if !TORCH_RMPI_TORCH_AT_LEAST(2, 13)
#error "torch-rmpi needs PyTorch 2.13 or newer"
#endif

// 2.14 gave the single-tensor collectives new canonical names; the old ones became aliases that forward to them. A
// backend overrides the canonical one.
#if TORCH_RMPI_TORCH_AT_LEAST(2, 14)
#define TORCH_RMPI_ALL_GATHER_SINGLE all_gather_single
#define TORCH_RMPI_ALL_GATHER_SINGLE_COALESCED all_gather_single_coalesced
#define TORCH_RMPI_REDUCE_SCATTER_SINGLE reduce_scatter_single
#define TORCH_RMPI_REDUCE_SCATTER_SINGLE_COALESCED reduce_scatter_single_coalesced
#define TORCH_RMPI_ALL_TO_ALL_SINGLE all_to_all_single
#else
#define TORCH_RMPI_ALL_GATHER_SINGLE _allgather_base
#define TORCH_RMPI_ALL_GATHER_SINGLE_COALESCED allgather_into_tensor_coalesced
#define TORCH_RMPI_REDUCE_SCATTER_SINGLE _reduce_scatter_base
#define TORCH_RMPI_REDUCE_SCATTER_SINGLE_COALESCED reduce_scatter_tensor_coalesced
#define TORCH_RMPI_ALL_TO_ALL_SINGLE alltoall_base
#endif

// Members that are virtual since 2.14 or 2.15 (Backend::gather_single, say); before, ours are plain members that only
// C++ callers reach.
#if TORCH_RMPI_TORCH_AT_LEAST(2, 14)
#define TORCH_RMPI_OVERRIDE_SINCE_2_14 override
#else
#define TORCH_RMPI_OVERRIDE_SINCE_2_14
#endif
#if TORCH_RMPI_TORCH_AT_LEAST(2, 15)
#define TORCH_RMPI_OVERRIDE_SINCE_2_15 override
#else
#define TORCH_RMPI_OVERRIDE_SINCE_2_15
#endif

// Completion hooks came with 2.15, and with them the types that they take.
#define TORCH_RMPI_HAS_COMPLETION_HOOKS TORCH_RMPI_TORCH_AT_LEAST(2, 15)
// Reconfiguring a group, and its types.
#define TORCH_RMPI_HAS_RECONFIGURE TORCH_RMPI_TORCH_AT_LEAST(2, 14)
// Windows.
#define TORCH_RMPI_HAS_WINDOW TORCH_RMPI_TORCH_AT_LEAST(2, 14)
