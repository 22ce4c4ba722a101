// Windows: memory of each rank that the others write into.
#include <vector>

#include "harness.hpp"

using namespace test;

#if TORCH_RMPI_HAS_WINDOW

RMPI_TEST(window, put_signal_and_wait) {
  const auto group = context.make_group();
  CHECK_TRUE(group->supportsWindow());
  const int after = (context.rank() + 1) % context.size();
  const int before = (context.rank() + context.size() - 1) % context.size();
  for (const bool is_mapped : {true, false}) {
    auto tensor = is_mapped ? group->allocateTensor(1000, at::kFloat) : at::empty({1000});
    tensor.zero_();
    const auto window = group->new_window(tensor);
    const auto put = window->put(at::full({500}, static_cast<float>(context.rank())), after, 250, true);
    const auto signal = window->signal(after, true);
    window->wait_signal(before, true)->wait();
    CHECK_SAME(tensor.slice(0, 250, 750), at::full({500}, static_cast<float>(before)));
    CHECK_TRUE(tensor.slice(0, 0, 250).abs().sum().item<float>() == 0);
    put->wait();
    signal->wait();
    const auto expected =
        is_mapped || context.size() == 1 ? c10d::WindowAccessType::UNIFIED : c10d::WindowAccessType::SEPARATE;
    CHECK_TRUE(window->get_attr(after).access_type == expected);
    window->tensor_deregister();
  }
  group->shutdown();
}

RMPI_TEST(window, remote_memory_is_mapped) {
  const auto group = context.make_group();
  auto tensor = group->allocateTensor(64, at::kInt).fill_(context.rank());
  const auto window = group->new_window();
  window->tensor_register(tensor, true);
  const int after = (context.rank() + 1) % context.size();
  auto remote = window->map_remote_tensor(after);
  CHECK_SAME(remote, at::full({64}, after, at::kInt));
  group->barrier()->wait();
  remote[5] = 1000 + context.rank();
  group->barrier()->wait();
  const int before = (context.rank() + context.size() - 1) % context.size();
  CHECK_TRUE(tensor[5].item<int>() == 1000 + before);
  window->tensor_deregister();
  group->shutdown();
}

RMPI_TEST(window, what_is_refused) {
  const auto group = context.make_group();
  const auto window = group->new_window();
  CHECK_THROWS(c10::ValueError, "tensor_register", window->signal(0, false));
  window->tensor_register(at::zeros({10}), true);
  CHECK_THROWS(c10::ValueError, "out of range", window->put(at::ones({1}), context.size(), 0, false));
  CHECK_THROWS(c10::ValueError, "put", window->put(at::ones({11}), 0, 0, false));
  CHECK_THROWS(c10::TypeError, "dtype", window->put(at::ones({1}, at::kInt), 0, 0, false));
  window->tensor_deregister();
  CHECK_THROWS(c10::ValueError, "tensor_register", window->get_attr(0));
  group->shutdown();
}

#endif
