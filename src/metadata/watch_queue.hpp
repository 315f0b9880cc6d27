// WatchQueue: changes on their way from a store to the reader of one watch.
//
// Invariants: events of a transaction arrive together; nothing is dropped silently: a reader that
// left too much unread is told that it fell behind. Threading: one loop; shared by store and
// reader.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "metadata/kv.hpp"

namespace agro {

class WatchQueue {
 public:
  /// Events that a reader may leave unread.
  static constexpr std::size_t kUnreadCountMax = 65536;

  explicit WatchQueue(std::string prefix) : prefix_(std::move(prefix)) {}

  const std::string& prefix() const { return prefix_; }
  bool ended() const { return end_.has_value(); }
  /// Takes those events of one transaction that are under the prefix.
  void add(const std::vector<KvEvent>& events);
  /// From now on the reader gets `error`; what is unread is dropped.
  void end(Error error);
  void fall_behind();
  void close();

  /// All that is unread, as soon as there is something.
  static Task<std::vector<KvEvent>> next(std::shared_ptr<WatchQueue> queue);

 private:
  std::string prefix_;
  std::vector<KvEvent> unread_;
  std::optional<Error> end_;
  Event changed_;
};

/// The reader's side; closes the queue when it goes.
std::unique_ptr<KvWatch> make_watch(std::shared_ptr<WatchQueue> queue);

}  // namespace agro
