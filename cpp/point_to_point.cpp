// send, recv and recv from any source.
#include <utility>

#include "core.hpp"

namespace rmpi {
namespace {

/// The core's "any source".
constexpr std::int64_t kAnySource = -1;

}  // namespace

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::send(std::vector<at::Tensor>& tensors, int destination, int tag) {
  const auto check = core().check("send");
  const auto& tensor = check.single("tensors", tensors);
  check.input("the tensor", tensor);
  check.peer("destination", destination);
  check.tag(tag);

  Launch launch(bridge::Operation::Send, c10d::OpType::SEND, "rmpi:send", c10d::kUnsetTimeout, true);
  launch.call.dtype = data_type(tensor);
  launch.call.root = destination;
  launch.call.tag = tag;
  launch.profiled = tensors;
  launch.inputs.push_back(read_region(launch.staging.input(tensor)));
  return core().issue(std::move(launch));
}

namespace {

Launch receive(const Check& check, const std::vector<at::Tensor>& tensors, std::int64_t source, int tag,
               c10d::OpType type, const char* title) {
  const auto& tensor = check.single("tensors", tensors);
  check.output("the tensor", tensor);
  check.tag(tag);

  Launch launch(bridge::Operation::Recv, type, title, c10d::kUnsetTimeout, true);
  launch.call.dtype = data_type(tensor);
  launch.call.root = source;
  launch.call.tag = tag;
  launch.profiled = tensors;
  launch.give(tensors);
  launch.outputs.push_back(write_region(launch.staging.output(tensor)));
  return launch;
}

}  // namespace

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::recv(std::vector<at::Tensor>& tensors, int source, int tag) {
  const auto check = core().check("recv");
  check.peer("source", source);
  return core().issue(receive(check, tensors, source, tag, c10d::OpType::RECV, "rmpi:recv"));
}

c10::intrusive_ptr<c10d::Work> ProcessGroupRMPI::recvAnysource(std::vector<at::Tensor>& tensors, int tag) {
  const auto check = core().check("recv from any source");
  return core().issue(receive(check, tensors, kAnySource, tag, c10d::OpType::RECVANYSOURCE, "rmpi:recvAnySource"));
}

}  // namespace rmpi
