// A small test harness for programs that run on several ranks. A check that fails ends the process at once with its
// message, and the launcher then ends the other ranks: a failure on one rank fails the test everywhere and never hangs.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/StringUtil.h>

#include <torch_rmpi/process_group_rmpi.hpp>

namespace test {

using Group = rmpi::ProcessGroupRMPI;
using Tensors = std::vector<at::Tensor>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using std::chrono::milliseconds;

/// What a test gets: the ranks of the job, and groups over all of them.
class Context {
 public:
  Context();
  /// Collective: removes the files of the stores.
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// A group of all ranks with a store of its own. Collective.
  c10::intrusive_ptr<Group> make_group(milliseconds timeout = std::chrono::seconds(60)) const;
  /// A store that all ranks share and nobody has used. Collective.
  c10::intrusive_ptr<c10d::Store> make_store() const;

 private:
  int rank_;
  int size_;
  std::string directory_;
  mutable int stores_ = 0;
};

/// Registers a test of a suite; the program's argument is the suite to run.
struct Register {
  Register(const char* suite, const char* name, std::function<void(const Context&)> body);
};

[[noreturn]] void fail(const char* file, int line, const std::string& message);

/// Equal dtype, shape and elements.
bool same(const at::Tensor& actual, const at::Tensor& expected);
std::string show(const at::Tensor& tensor);

/// A tensor whose elements are small whole numbers, different on each rank: exact in every dtype.
at::Tensor sample(int rank, at::IntArrayRef shape, at::ScalarType dtype = at::kFloat);

/// Element `index` of `sample(rank, ...)`.
double sample_value(int rank, std::int64_t index);

}  // namespace test

#define RMPI_TEST(suite, name)                                                            \
  static void suite##_##name(const test::Context& context);                               \
  static const test::Register suite##_##name##_registered(#suite, #name, suite##_##name); \
  static void suite##_##name([[maybe_unused]] const test::Context& context)

#define CHECK_TRUE(condition, ...)                                                              \
  do {                                                                                          \
    if (!(condition)) test::fail(__FILE__, __LINE__, c10::str(#condition, " ", ##__VA_ARGS__)); \
  } while (false)

#define CHECK_SAME(actual, expected, ...)                                                                            \
  do {                                                                                                               \
    const at::Tensor actual_ = (actual);                                                                             \
    const at::Tensor expected_ = (expected);                                                                         \
    if (!test::same(actual_, expected_)) {                                                                           \
      test::fail(                                                                                                    \
          __FILE__, __LINE__,                                                                                        \
          c10::str(#actual, " is ", test::show(actual_), ", expected ", test::show(expected_), " ", ##__VA_ARGS__)); \
    }                                                                                                                \
  } while (false)

/// The statement throws exactly this class, with this text in the message.
#define CHECK_THROWS(Exception, text, statement)                                               \
  do {                                                                                         \
    bool thrown_ = false;                                                                      \
    try {                                                                                      \
      statement;                                                                               \
    } catch (const Exception& error_) {                                                        \
      thrown_ = true;                                                                          \
      const std::string what_ = error_.what_without_backtrace();                               \
      if (what_.find(text) == std::string::npos) {                                             \
        test::fail(__FILE__, __LINE__, c10::str("the message lacks \"", text, "\": ", what_)); \
      }                                                                                        \
    }                                                                                          \
    if (!thrown_) test::fail(__FILE__, __LINE__, #statement " did not throw " #Exception);     \
  } while (false)
