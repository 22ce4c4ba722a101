/* The blocking collectives of an MPI, as a C program calls them.
 *
 * mpi_baseline OUTPUT SECONDS RANKS SIZE...
 *
 * For each size in bytes, each collective runs for about SECONDS, on RANKS ranks. Rank 0 writes to the file OUTPUT
 * which MPI it is linked with, and a line for each collective and size: name, bytes, and the nanoseconds of each run on
 * its slowest rank. Counting, warming up and rotating buffers are those of the Python benchmark (timing.py and
 * operations.py). Without arguments it prints the MPI that it is linked with, and needs no launcher.
 */
#include <errno.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WARM_UP = 3, FEWEST = 2, MOST = 5000, MOST_BUFFERS = 8 };
/* Nanoseconds of calls before anything counts. */
static const int64_t SETTLING = 1000000000;
static const size_t MOST_BYTES = (size_t)256 << 20;

/* Sets of buffers that are used in turn. */
struct buffers {
  float* in[MOST_BUFFERS];
  float* out[MOST_BUFFERS];
  int sets;
  int count;
};

typedef void collective(struct buffers* buffers, int set);

static int ranks, rank;

static void fail(const char* what) {
  fprintf(stderr, "mpi_baseline: %s\n", what);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

/* PyTorch's own MPI backend reduces in place, too. */
static void all_reduce(struct buffers* buffers, int set) {
  MPI_Allreduce(MPI_IN_PLACE, buffers->in[set], buffers->count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void broadcast(struct buffers* buffers, int set) {
  MPI_Bcast(buffers->in[set], buffers->count, MPI_FLOAT, 0, MPI_COMM_WORLD);
}

static void all_to_all(struct buffers* buffers, int set) {
  int part = buffers->count / ranks;
  MPI_Alltoall(buffers->in[set], part, MPI_FLOAT, buffers->out[set], part, MPI_FLOAT, MPI_COMM_WORLD);
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static float* zeros(size_t bytes) {
  float* memory = malloc(bytes);
  if (memory == NULL) fail("out of memory");
  /* Written, not only asked for: pages must be there before the clock runs. */
  memset(memory, 0, bytes);
  return memory;
}

static struct buffers prepare(size_t bytes) {
  struct buffers made = {.count = (int)(bytes / sizeof(float))};
  size_t fit = MOST_BYTES / bytes;
  made.sets = fit > MOST_BUFFERS ? MOST_BUFFERS : fit < 2 ? 2 : (int)fit;
  for (int set = 0; set < made.sets; set++) {
    made.in[set] = zeros(bytes);
    made.out[set] = zeros(bytes);
  }
  return made;
}

static void release(struct buffers* buffers) {
  for (int set = 0; set < buffers->sets; set++) {
    free(buffers->in[set]);
    free(buffers->out[set]);
  }
}

/* Fills in the nanoseconds of each run, on the slowest rank. */
static void runs(collective* call, struct buffers* buffers, int64_t* durations, int count) {
  MPI_Barrier(MPI_COMM_WORLD);
  for (int run = 0; run < count; run++) {
    int64_t begun = now();
    call(buffers, run % buffers->sets);
    durations[run] = now() - begun;
  }
  MPI_Allreduce(MPI_IN_PLACE, durations, count, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD);
}

/* Keeps all ranks busy, until their cores are as fast as they will be. */
static void settle(void) {
  int64_t until = now() + SETTLING;
  for (int over = 0; !over;) {
    over = now() >= until;
    MPI_Allreduce(MPI_IN_PLACE, &over, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  }
}

static int ascending(const void* left, const void* right) {
  int64_t a = *(const int64_t*)left, b = *(const int64_t*)right;
  return (a > b) - (a < b);
}

static void measure(const char* name, collective* call, size_t bytes, double seconds, FILE* output) {
  static int64_t durations[MOST];
  struct buffers buffers = prepare(bytes);
  runs(call, &buffers, durations, WARM_UP);
  runs(call, &buffers, durations, WARM_UP);
  qsort(durations, WARM_UP, sizeof *durations, ascending);
  int64_t once = durations[WARM_UP / 2] > 0 ? durations[WARM_UP / 2] : 1;
  double fit = seconds * 1e9 / (double)once;
  /* Alike on all ranks, as the durations are. */
  int count = fit > MOST ? MOST : fit < FEWEST ? FEWEST : (int)fit;
  runs(call, &buffers, durations, count);
  if (output != NULL) {
    fprintf(output, "%s %zu", name, bytes);
    for (int run = 0; run < count; run++) fprintf(output, " %lld", (long long)durations[run]);
    fprintf(output, "\n");
  }
  release(&buffers);
}

/* The first line of the text, which some MPIs have several of, has name and version. */
static void print_library(FILE* output) {
  char text[MPI_MAX_LIBRARY_VERSION_STRING + 1] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  fprintf(output, "library %.*s\n", (int)strcspn(text, "\r\n"), text);
}

/* Under the launcher of another MPI each process would be a job of one rank, and measure nothing. */
static void check_ranks(const char* expected) {
  if (ranks == atoi(expected)) return;
  fprintf(stderr, "mpi_baseline: one of %d ranks, not of %s: is the launcher that of another MPI?\n", ranks, expected);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

int main(int count, char** words) {
  if (count == 1) {
    print_library(stdout);
    return 0;
  }
  MPI_Init(&count, &words);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (count < 5) fail("usage: mpi_baseline OUTPUT SECONDS RANKS SIZE...");
  check_ranks(words[3]);
  FILE* output = rank == 0 ? fopen(words[1], "w") : NULL;
  if (rank == 0 && output == NULL) fail(strerror(errno));
  if (output != NULL) print_library(output);
  double seconds = atof(words[2]);
  settle();
  for (int word = 4; word < count; word++) {
    size_t unit = sizeof(float) * (size_t)ranks;
    size_t bytes = strtoull(words[word], NULL, 10);
    if (bytes < sizeof(float) || bytes > INT32_MAX) fail("a size is at least 4, and less than 2 GiB");
    /* One element for each rank at least. */
    size_t whole = bytes < unit ? unit : bytes / unit * unit;
    measure("all_reduce", all_reduce, bytes, seconds, output);
    measure("broadcast", broadcast, bytes, seconds, output);
    measure("all_to_all", all_to_all, whole, seconds, output);
  }
  if (output != NULL && fclose(output) != 0) fail(strerror(errno));
  MPI_Finalize();
  return 0;
}
