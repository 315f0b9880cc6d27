// An Ethernet of a test: what was put in comes out of receive(), what was sent is kept.
#pragma once

#include <deque>
#include <vector>

#include "block/aoe/ether.hpp"

namespace agro::aoe {

class FakeEther final : public Ether {
 public:
  MacAddress address() const override { return {std::byte{2}, {}, {}, {}, {}, std::byte{1}}; }
  std::size_t mtu() const override { return mtu_bytes; }
  Task<std::vector<ConstBytes>> receive() override {
    while (incoming.empty() && !closed) co_await changed.wait();
    if (incoming.empty()) co_return fail(Errc::closed, "closed");
    present_.clear();
    std::swap(present_, incoming);
    std::vector<ConstBytes> frames(present_.begin(), present_.end());
    co_return frames;
  }
  void send(std::vector<std::byte> frame) override { queued_.push_back(std::move(frame)); }
  void send_queued() override {
    for (std::vector<std::byte>& frame : queued_) sent.push_back(std::move(frame));
    queued_.clear();
  }
  void close() override {
    closed = true;
    changed.notify_all();
  }

  void put(std::vector<std::byte> frame) {
    incoming.push_back(std::move(frame));
    changed.notify_all();
  }

  std::size_t mtu_bytes = 1500;
  std::vector<std::vector<std::byte>> incoming;
  std::deque<std::vector<std::byte>> sent;
  bool closed = false;
  Event changed;

 private:
  std::vector<std::vector<std::byte>> present_;
  std::vector<std::vector<std::byte>> queued_;
};

}  // namespace agro::aoe
