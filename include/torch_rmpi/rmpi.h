/* torch-rmpi: collectives and messages over MPI. Generated from src/capi by cbindgen; do not edit. */

#ifndef TORCH_RMPI_RMPI_H
#define TORCH_RMPI_RMPI_H

#include <stddef.h>
#include <stdint.h>

/*
 The call succeeded.
 */
#define RMPI_SUCCESS 0

/*
 An argument has a value that the operation cannot take. Nothing was moved.
 */
#define RMPI_ERROR_VALUE 1

/*
 The data type does not have the reduction. Nothing was moved.
 */
#define RMPI_ERROR_TYPE 2

/*
 This machine, MPI or process lacks what was asked for.
 */
#define RMPI_ERROR_UNAVAILABLE 3

/*
 The timeout passed. The group can no longer be used.
 */
#define RMPI_ERROR_TIMEOUT 4

/*
 MPI or a peer failed. The group can no longer be used.
 */
#define RMPI_ERROR_BACKEND 5

/*
 IEEE 754 half precision, 2 bytes.
 */
#define RMPI_FLOAT16 0

/*
 bfloat16, 2 bytes.
 */
#define RMPI_BFLOAT16 1

/*
 float.
 */
#define RMPI_FLOAT32 2

/*
 double.
 */
#define RMPI_FLOAT64 3

/*
 Two floats.
 */
#define RMPI_COMPLEX64 4

/*
 Two doubles.
 */
#define RMPI_COMPLEX128 5

/*
 uint8_t.
 */
#define RMPI_UINT8 6

/*
 int8_t.
 */
#define RMPI_INT8 7

/*
 uint16_t.
 */
#define RMPI_UINT16 8

/*
 int16_t.
 */
#define RMPI_INT16 9

/*
 uint32_t.
 */
#define RMPI_UINT32 10

/*
 int32_t.
 */
#define RMPI_INT32 11

/*
 uint64_t.
 */
#define RMPI_UINT64 12

/*
 int64_t.
 */
#define RMPI_INT64 13

/*
 One byte; any other value than 0 is true.
 */
#define RMPI_BOOL 14

/*
 One byte that moves but does not reduce.
 */
#define RMPI_BYTES 15

/*
 Sum; of integers it wraps around, of bool it is the logical or.
 */
#define RMPI_SUM 0

/*
 Sum divided by the number of ranks; of integers truncated toward zero.
 */
#define RMPI_AVG 1

/*
 Product; of integers it wraps around, of bool it is the logical and.
 */
#define RMPI_PRODUCT 2

/*
 Minimum; NaN if an input is NaN.
 */
#define RMPI_MIN 3

/*
 Maximum; NaN if an input is NaN.
 */
#define RMPI_MAX 4

/*
 Bitwise and.
 */
#define RMPI_BAND 5

/*
 Bitwise or.
 */
#define RMPI_BOR 6

/*
 Bitwise exclusive or.
 */
#define RMPI_BXOR 7

/*
 A group of processes. Opaque.
 */
typedef struct rmpi_group rmpi_group;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Returns when every rank has called it.

 # Safety
 `group` must be null (an error) or a live group.
 */
int32_t rmpi_barrier(const rmpi_group *group);

/*
 Copies `count` elements of the root's `buffer` to every rank's.

 # Safety
 `buffer` must be valid for `count` elements; see also `rmpi_barrier`.
 */
int32_t rmpi_broadcast(const rmpi_group *group,
                       void *buffer,
                       size_t count,
                       int32_t dtype,
                       int32_t root);

/*
 Reduces `count` elements of every rank's `input` into every rank's `output`, which may be `input`.

 # Safety
 Both must be valid for `count` elements, and be the same or not overlap; see also `rmpi_barrier`.
 */
int32_t rmpi_all_reduce(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype,
                        int32_t op);

/*
 Reduces `count` elements of every rank's `input` into the root's `output`, which may be its `input`. Other ranks'
 `output` is not used.

 # Safety
 As for `rmpi_all_reduce`.
 */
int32_t rmpi_reduce(const rmpi_group *group,
                    const void *input,
                    void *output,
                    size_t count,
                    int32_t dtype,
                    int32_t op,
                    int32_t root);

/*
 Copies `count` elements of rank r's `input` to the r-th block of `count` elements of every rank's `output`.

 # Safety
 `input` must be valid for `count` elements, `output` for `count` times the size of the group.
 */
int32_t rmpi_all_gather(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype);

/*
 Reduces the r-th block of `count` elements of every rank's `input` into rank r's `output`.

 # Safety
 `input` must be valid for `count` elements times the size of the group, `output` for `count`.
 */
int32_t rmpi_reduce_scatter(const rmpi_group *group,
                            const void *input,
                            void *output,
                            size_t count,
                            int32_t dtype,
                            int32_t op);

/*
 Copies the r-th block of `count` elements of `input` to rank r, which puts what rank s sends into its s-th block.

 # Safety
 Both must be valid for `count` elements times the size of the group, and not overlap.
 */
int32_t rmpi_all_to_all(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype);

/*
 Sends `count` elements to rank `destination`, which receives them with the same `tag` (0 to 32767 on every MPI).

 # Safety
 `buffer` must be valid for `count` elements.
 */
int32_t rmpi_send(const rmpi_group *group,
                  const void *buffer,
                  size_t count,
                  int32_t dtype,
                  int32_t destination,
                  int32_t tag);

/*
 Receives `count` elements from rank `source`, or from any rank if it is -1, in which case `*sender`, unless null,
 gets the sender's rank.

 # Safety
 `buffer` must be valid for `count` elements, `sender` null or valid for writing.
 */
int32_t rmpi_recv(const rmpi_group *group,
                  void *buffer,
                  size_t count,
                  int32_t dtype,
                  int32_t source,
                  int32_t tag,
                  int32_t *sender);

/*
 Creates the group of all processes that the launcher started, in MPI's order; all of them call it. Starts MPI if
 nobody has. An operation may take `timeout_ms` milliseconds (0: 30 minutes). `*group` is written on success; free it
 with `rmpi_group_free`.

 # Safety
 `group` must be null (an error) or valid for writing a pointer.
 */
int32_t rmpi_group_world(int64_t timeout_ms,
                         rmpi_group **group);

/*
 This process's rank in the group, from 0.

 # Safety
 `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `rank` null or valid for writing.
 */
int32_t rmpi_group_rank(const rmpi_group *group,
                        int32_t *rank);

/*
 Number of processes in the group.

 # Safety
 `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `size` null or valid for writing.
 */
int32_t rmpi_group_size(const rmpi_group *group,
                        int32_t *size);

/*
 Ends the group: waits for its operations, each of which has a timeout. Null is allowed. After a failed operation its
 memory may be reused once this has returned RMPI_SUCCESS; otherwise some of it is in MPI's hands until the process
 ends.

 # Safety
 `group` must be null or come from `rmpi_group_world`, not be freed, and not be in use by another thread.
 */
int32_t rmpi_group_free(rmpi_group *group);

/*
 Returns when every rank has called it.

 # Safety
 `group` must be null (an error) or a live group.
 */
int32_t rmpi_barrier(const rmpi_group *group);

/*
 Copies `count` elements of the root's `buffer` to every rank's.

 # Safety
 `buffer` must be valid for `count` elements; see also `rmpi_barrier`.
 */
int32_t rmpi_broadcast(const rmpi_group *group,
                       void *buffer,
                       size_t count,
                       int32_t dtype,
                       int32_t root);

/*
 Reduces `count` elements of every rank's `input` into every rank's `output`, which may be `input`.

 # Safety
 Both must be valid for `count` elements, and be the same or not overlap; see also `rmpi_barrier`.
 */
int32_t rmpi_all_reduce(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype,
                        int32_t op);

/*
 Reduces `count` elements of every rank's `input` into the root's `output`, which may be its `input`. Other ranks'
 `output` is not used.

 # Safety
 As for `rmpi_all_reduce`.
 */
int32_t rmpi_reduce(const rmpi_group *group,
                    const void *input,
                    void *output,
                    size_t count,
                    int32_t dtype,
                    int32_t op,
                    int32_t root);

/*
 Copies `count` elements of rank r's `input` to the r-th block of `count` elements of every rank's `output`.

 # Safety
 `input` must be valid for `count` elements, `output` for `count` times the size of the group.
 */
int32_t rmpi_all_gather(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype);

/*
 Reduces the r-th block of `count` elements of every rank's `input` into rank r's `output`.

 # Safety
 `input` must be valid for `count` elements times the size of the group, `output` for `count`.
 */
int32_t rmpi_reduce_scatter(const rmpi_group *group,
                            const void *input,
                            void *output,
                            size_t count,
                            int32_t dtype,
                            int32_t op);

/*
 Copies the r-th block of `count` elements of `input` to rank r, which puts what rank s sends into its s-th block.

 # Safety
 Both must be valid for `count` elements times the size of the group, and not overlap.
 */
int32_t rmpi_all_to_all(const rmpi_group *group,
                        const void *input,
                        void *output,
                        size_t count,
                        int32_t dtype);

/*
 Sends `count` elements to rank `destination`, which receives them with the same `tag` (0 to 32767 on every MPI).

 # Safety
 `buffer` must be valid for `count` elements.
 */
int32_t rmpi_send(const rmpi_group *group,
                  const void *buffer,
                  size_t count,
                  int32_t dtype,
                  int32_t destination,
                  int32_t tag);

/*
 Receives `count` elements from rank `source`, or from any rank if it is -1, in which case `*sender`, unless null,
 gets the sender's rank.

 # Safety
 `buffer` must be valid for `count` elements, `sender` null or valid for writing.
 */
int32_t rmpi_recv(const rmpi_group *group,
                  void *buffer,
                  size_t count,
                  int32_t dtype,
                  int32_t source,
                  int32_t tag,
                  int32_t *sender);

/*
 Creates the group of all processes that the launcher started, in MPI's order; all of them call it. Starts MPI if
 nobody has. An operation may take `timeout_ms` milliseconds (0: 30 minutes). `*group` is written on success; free it
 with `rmpi_group_free`.

 # Safety
 `group` must be null (an error) or valid for writing a pointer.
 */
int32_t rmpi_group_world(int64_t timeout_ms,
                         rmpi_group **group);

/*
 This process's rank in the group, from 0.

 # Safety
 `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `rank` null or valid for writing.
 */
int32_t rmpi_group_rank(const rmpi_group *group,
                        int32_t *rank);

/*
 Number of processes in the group.

 # Safety
 `group` must be null (an error) or come from `rmpi_group_world` and not be freed; `size` null or valid for writing.
 */
int32_t rmpi_group_size(const rmpi_group *group,
                        int32_t *size);

/*
 Ends the group: waits for its operations, each of which has a timeout. Null is allowed. After a failed operation its
 memory may be reused once this has returned RMPI_SUCCESS; otherwise some of it is in MPI's hands until the process
 ends.

 # Safety
 `group` must be null or come from `rmpi_group_world`, not be freed, and not be in use by another thread.
 */
int32_t rmpi_group_free(rmpi_group *group);

/*
 What went wrong in the last call of this thread that failed; an empty string if none did. Valid until the thread's
 next failing call. Never null, never freed by the caller.
 */
const char *rmpi_last_error(void);

/*
 Version of the library as text, for example "0.1.0". Never freed.
 */
const char *rmpi_version(void);

/*
 What went wrong in the last call of this thread that failed; an empty string if none did. Valid until the thread's
 next failing call. Never null, never freed by the caller.
 */
const char *rmpi_last_error(void);

/*
 Version of the library as text, for example "0.1.0". Never freed.
 */
const char *rmpi_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TORCH_RMPI_RMPI_H */
