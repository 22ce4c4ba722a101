#include "harness.hpp"

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include <unistd.h>

#include <torch/csrc/distributed/c10d/FileStore.hpp>

namespace test {
namespace {

struct Case {
  std::string suite;
  std::string name;
  std::function<void(const Context&)> body;
};

constexpr std::chrono::seconds kMeetingTimeout{60};

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

}  // namespace

Register::Register(const char* suite, const char* name, std::function<void(const Context&)> body) {
  cases().push_back({suite, name, std::move(body)});
}

void fail(const char* file, int line, const std::string& message) {
  std::cerr << "rank " << rmpi::world_rank() << ": " << file << ":" << line << ": " << message << std::endl;
  std::_Exit(1);
}

Context::Context() : rank_(rmpi::world_rank()), size_(rmpi::world_size()) {
  if (rank_ == 0) {
    directory_ = (std::filesystem::temp_directory_path() / "rmpi-test-XXXXXX").string();
    CHECK_TRUE(mkdtemp(directory_.data()) != nullptr, "for ", directory_);
  }
  directory_ = rmpi::world_broadcast(directory_, kMeetingTimeout);
}

Context::~Context() {
  // All ranks meet here, so nobody uses a store any more.
  rmpi::world_broadcast("", kMeetingTimeout);
  if (rank_ == 0) std::filesystem::remove_all(directory_);
}

c10::intrusive_ptr<c10d::Store> Context::make_store() const {
  return c10::make_intrusive<c10d::FileStore>(directory_ + "/" + std::to_string(stores_++), size_);
}

c10::intrusive_ptr<Group> Context::make_group(milliseconds timeout) const {
  return c10::make_intrusive<Group>(make_store(), rank_, size_, Group::Options::create(timeout));
}

bool same(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.scalar_type() != expected.scalar_type() || actual.sizes() != expected.sizes()) return false;
  // Not every dtype has a comparison; every one has a value in complex128.
  return at::equal(actual.to(at::kComplexDouble), expected.to(at::kComplexDouble));
}

std::string show(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.scalar_type() << " " << tensor.sizes() << " "
       << tensor.to(at::kComplexDouble).flatten().slice(0, 0, 20);
  return text.str();
}

double sample_value(int rank, std::int64_t index) { return static_cast<double>((rank * 2 + index * 3) % 5 + 1); }

at::Tensor sample(int rank, at::IntArrayRef shape, at::ScalarType dtype) {
  auto values = at::empty(shape, at::kDouble);
  for (std::int64_t index = 0; index < values.numel(); ++index) {
    values.data_ptr<double>()[index] = sample_value(rank, index);
  }
  return values.to(dtype);
}

}  // namespace test

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: " << argv[0] << " SUITE, under mpirun" << std::endl;
    return 2;
  }
  try {
    const test::Context context;
    int count = 0;
    for (const auto& test_case : test::cases()) {
      if (test_case.suite != argv[1]) continue;
      ++count;
      if (context.rank() == 0) std::cout << test_case.suite << "." << test_case.name << std::endl;
      try {
        test_case.body(context);
      } catch (const c10::Error& error) {
        test::fail(test_case.name.c_str(), 0, error.what_without_backtrace());
      } catch (const std::exception& error) {
        test::fail(test_case.name.c_str(), 0, error.what());
      }
    }
    if (count == 0) test::fail(argv[1], 0, "no such suite");
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    std::_Exit(1);
  }
  return 0;
}
