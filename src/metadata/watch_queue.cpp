#include "metadata/watch_queue.hpp"

namespace agro {
namespace {

class QueueWatch final : public KvWatch {
 public:
  explicit QueueWatch(std::shared_ptr<WatchQueue> queue) : queue_(std::move(queue)) {}
  ~QueueWatch() override { queue_->close(); }
  Task<std::vector<KvEvent>> next() override { return WatchQueue::next(queue_); }
  void close() override { queue_->close(); }

 private:
  std::shared_ptr<WatchQueue> queue_;
};

}  // namespace

void WatchQueue::add(const std::vector<KvEvent>& events) {
  if (ended()) return;
  for (const KvEvent& event : events) {
    if (event.entry.key.starts_with(prefix_)) unread_.push_back(event);
  }
  if (unread_.size() > kUnreadCountMax) return fall_behind();
  if (!unread_.empty()) changed_.notify_all();
}

void WatchQueue::end(Error error) {
  if (ended()) return;
  unread_.clear();
  end_ = std::move(error);
  changed_.notify_all();
}

void WatchQueue::fall_behind() {
  end({Errc::outcome_unknown, "the metadata watch fell behind and missed changes"});
}

void WatchQueue::close() { end({Errc::closed, "the metadata watch is closed"}); }

Task<std::vector<KvEvent>> WatchQueue::next(std::shared_ptr<WatchQueue> queue) {
  while (!queue->ended() && queue->unread_.empty()) co_await queue->changed_.wait();
  if (queue->ended()) co_return fail(*queue->end_);
  co_return std::exchange(queue->unread_, {});
}

std::unique_ptr<KvWatch> make_watch(std::shared_ptr<WatchQueue> queue) {
  return std::make_unique<QueueWatch>(std::move(queue));
}

}  // namespace agro
