// Messages between two ranks.
#include <set>

#include "harness.hpp"

using namespace test;

RMPI_TEST(point_to_point, ring) {
  const auto group = context.make_group();
  const int next = (context.rank() + 1) % context.size();
  const int previous = (context.rank() + context.size() - 1) % context.size();
  for (const std::int64_t count : {0, 1, 10, 1'000'000}) {
    Tensors sent{sample(context.rank(), {count}, at::kShort)};
    Tensors received{at::zeros({count}, at::kShort)};
    const auto send = group->send(sent, next, 7);
    const auto receive = group->recv(received, previous, 7);
    receive->wait();
    send->wait();
    CHECK_SAME(received[0], sample(previous, {count}, at::kShort));
    CHECK_TRUE(receive->sourceRank() == previous);
  }
  group->shutdown();
}

RMPI_TEST(point_to_point, tags_select) {
  const auto group = context.make_group();
  const int next = (context.rank() + 1) % context.size();
  const int previous = (context.rank() + context.size() - 1) % context.size();
  Tensors first{at::full({4}, 1.0)};
  Tensors second{at::full({4}, 2.0)};
  const auto send_first = group->send(first, next, 1);
  const auto send_second = group->send(second, next, 2);
  Tensors received{at::zeros({4}, at::kFloat)};
  group->recv(received, previous, 2)->wait();
  CHECK_SAME(received[0], second[0]);
  group->recv(received, previous, 1)->wait();
  CHECK_SAME(received[0], first[0]);
  send_first->wait();
  send_second->wait();
  group->shutdown();
}

RMPI_TEST(point_to_point, any_source) {
  const auto group = context.make_group();
  if (context.rank() == 0) {
    std::set<int> sources;
    for (int count = 1; count < context.size(); ++count) {
      Tensors received{at::zeros({5})};
      const auto work = group->recvAnysource(received, 0);
      work->wait();
      sources.insert(work->sourceRank());
      CHECK_SAME(received[0], sample(work->sourceRank(), {5}));
      CHECK_TRUE(work->result().size() == 1);
    }
    CHECK_TRUE(sources.size() == static_cast<std::size_t>(context.size() - 1), "every sender once");
  } else {
    Tensors sent{sample(context.rank(), {5})};
    group->send(sent, 0, 0)->wait();
  }
  group->shutdown();
}

RMPI_TEST(point_to_point, not_contiguous) {
  const auto group = context.make_group();
  const int next = (context.rank() + 1) % context.size();
  const int previous = (context.rank() + context.size() - 1) % context.size();
  Tensors sent{sample(context.rank(), {3, 4}).t()};
  Tensors received{at::zeros({3, 4}).t()};
  const auto send = group->send(sent, next, 0);
  group->recv(received, previous, 0)->wait();
  send->wait();
  CHECK_SAME(received[0], sample(previous, {3, 4}).t());
  group->shutdown();
}

RMPI_TEST(point_to_point, source_rank_belongs_to_receives) {
  const auto group = context.make_group();
  CHECK_THROWS(c10::Error, "sourceRank", group->barrier()->sourceRank());
  group->shutdown();
}
