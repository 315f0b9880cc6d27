#include "sim/sim_disk.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <unordered_map>

namespace agro {
namespace {

constexpr std::size_t kTearSize = 512;

using Page = std::array<std::byte, kPageSize>;
using PageHandle = std::shared_ptr<const Page>;  // null: all zero

const Page& zero_page() {
  static const Page page{};
  return page;
}
const Page& page_of(const PageHandle& handle) { return handle == nullptr ? zero_page() : *handle; }

PageHandle make_page(ConstBytes bytes) {
  if (std::memcmp(bytes.data(), zero_page().data(), kPageSize) == 0) return nullptr;
  auto page = std::make_shared<Page>();
  std::memcpy(page->data(), bytes.data(), kPageSize);
  return page;
}

/// Sparse bytes of a file.
struct Content {
  std::unordered_map<std::uint64_t, PageHandle> pages;
  std::uint64_t size = 0;

  PageHandle page(std::uint64_t number) const {
    const auto found = pages.find(number);
    return found == pages.end() ? nullptr : found->second;
  }
  void set_page(std::uint64_t number, PageHandle page) {
    if (page == nullptr) {
      pages.erase(number);
    } else {
      pages[number] = std::move(page);
    }
  }
  void resize(std::uint64_t new_size) {
    if (new_size < size) {
      std::erase_if(pages, [&](const auto& each) { return each.first * kPageSize >= new_size; });
      if (new_size % kPageSize != 0) clear_tail(new_size);
    }
    size = new_size;
  }
  void clear_tail(std::uint64_t new_size) {
    Page cut = page_of(page(new_size / kPageSize));
    std::fill(cut.begin() + static_cast<std::ptrdiff_t>(new_size % kPageSize), cut.end(),
              std::byte{0});
    set_page(new_size / kPageSize, make_page(cut));
  }
  void read(std::uint64_t offset, MutableBytes out) const {
    while (!out.empty()) {
      const std::size_t in_page = offset % kPageSize;
      const std::size_t count = std::min<std::size_t>(kPageSize - in_page, out.size());
      std::memcpy(out.data(), page_of(page(offset / kPageSize)).data() + in_page, count);
      offset += count;
      out = out.subspan(count);
    }
  }
};

/// One change that a sync has not covered yet.
struct Change {
  enum class Kind { write, resize, discard };
  Kind kind = Kind::write;
  std::uint64_t id = 0;
  std::uint64_t first_page = 0;
  std::vector<PageHandle> pages;
  std::uint64_t size = 0;  // resize: the new one

  void apply(Content& content) const {
    if (kind == Kind::resize) return content.resize(size);
    for (std::size_t i = 0; i < pages.size(); ++i) content.set_page(first_page + i, pages[i]);
    if (kind == Kind::write) content.size = std::max(content.size, end());
  }
  std::uint64_t end() const { return (first_page + pages.size()) * kPageSize; }

  /// Some of its pieces reach `content`, each by the toss of a coin: pieces of 512 bytes, or, so that
  /// whole pages often survive beside lost ones, of a page.
  void apply_torn(Content& content, Random& random) const {
    if (kind == Kind::resize) return random.chance(1, 2) ? apply(content) : void();
    const std::size_t piece = random.chance(1, 2) ? kTearSize : kPageSize;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      Page mixed = page_of(content.page(first_page + i));
      bool any = false;
      for (std::size_t at = 0; at < kPageSize; at += piece) {
        if (random.chance(1, 2)) continue;
        any = true;
        std::memcpy(mixed.data() + at, page_of(pages[i]).data() + at, piece);
      }
      if (!any) continue;
      content.set_page(first_page + i, make_page(mixed));
      if (kind == Kind::write) {
        content.size = std::max(content.size, (first_page + i + 1) * kPageSize);
      }
    }
  }
};

struct Node {
  Content current;
  Content durable;
  Content cached;                          // pages that the cache holds otherwise than the disk
  std::vector<Change> unsynced;            // completed, in order of completion
  std::map<std::uint64_t, Change> flying;  // by id
  std::uint64_t next_id = 0;
  std::uint64_t crash_count = 0;  // a handle of an older count is closed
  bool locked = false;
  SimFault fault;

  void land(const Change& change) {
    change.apply(current);
    for (std::size_t i = 0; i < change.pages.size(); ++i) cached.pages.erase(change.first_page + i);
  }
  void read(std::uint64_t offset, MutableBytes out) const {
    current.read(offset, out);
    if (cached.pages.empty()) return;
    for (std::uint64_t at = offset; at < offset + out.size(); at = round_down(at, kPageSize) + kPageSize) {
      const PageHandle page = cached.page(at / kPageSize);
      if (page == nullptr) continue;
      const std::uint64_t end = std::min(round_down(at, kPageSize) + kPageSize, offset + out.size());
      std::memcpy(out.data() + (at - offset), page->data() + at % kPageSize, end - at);
    }
  }
  void settle() {
    durable = current;
    cached.pages.clear();
    unsynced.clear();
    flying.clear();
    ++crash_count;
    locked = false;
  }
  void crash(Random& random) {
    for (auto& [id, change] : flying) unsynced.push_back(std::move(change));
    for (const Change& change : unsynced) {
      switch (random.below(3)) {
        case 0: break;
        case 1: change.apply(durable); break;
        default: change.apply_torn(durable, random);
      }
    }
    current = durable;
    settle();
  }
};

}  // namespace

struct SimDisk::State {
  State(Clock& the_clock, Random the_random, SimDiskOptions the_options)
      : clock(the_clock), random(the_random), options(the_options) {}

  Awaitable<void> wait() {
    const auto range = static_cast<std::uint64_t>((options.latency_max - options.latency_min).count());
    const Duration latency =
        options.latency_min + Duration(range == 0 ? 0 : random.below(range + 1));
    if (latency.count() == 0) {
      co_await yield_to_loop();
    } else {
      co_await sleep_for(clock, latency);
    }
  }
  bool has_room(const Node& node, std::uint64_t new_size) const {
    if (new_size <= node.current.size) return true;
    std::uint64_t used = 0;
    for (const auto& [path, each] : files) used += each->current.size;
    return used + (new_size - node.current.size) <= options.capacity;
  }
  Node& node(const std::string& path) {
    const auto found = files.find(path);
    AGRO_ASSERT(found != files.end());
    return *found->second;
  }

  Clock& clock;
  Random random;
  SimDiskOptions options;
  std::map<std::string, std::shared_ptr<Node>> files;
  std::set<std::string> directories;
  std::map<std::string, SimFault> faults;
  std::uint64_t crash_count = 0;
  std::uint64_t sync_count = 0;
  std::uint64_t write_count = 0;
};

namespace {

class SimFile final : public File {
 public:
  SimFile(std::shared_ptr<SimDisk::State> disk, std::shared_ptr<Node> node, std::string path,
          bool exclusive)
      : disk_(std::move(disk)),
        node_(std::move(node)),
        path_(std::move(path)),
        crash_count_(node_->crash_count),
        exclusive_(exclusive) {}
  ~SimFile() override { unlock(); }

  Task<void> write(std::uint64_t offset, std::vector<ConstBytes> parts) override {
    AGRO_ASSERT(offset % kPageSize == 0);
    Change change;
    change.first_page = offset / kPageSize;
    for (const ConstBytes part : parts) {
      AGRO_ASSERT(part.size() % kPageSize == 0);
      AGRO_ASSERT(reinterpret_cast<std::uintptr_t>(part.data()) % kPageSize == 0);
      for (std::size_t at = 0; at < part.size(); at += kPageSize) {
        change.pages.push_back(make_page(part.subspan(at, kPageSize)));
      }
    }
    ++disk_->write_count;
    return make_change(std::move(change));
  }

  Task<void> resize(std::uint64_t size) override {
    Change change;
    change.kind = Change::Kind::resize;
    change.size = size;
    return make_change(std::move(change));
  }

  Task<void> discard(std::uint64_t offset, std::uint64_t size) override {
    Change change;
    change.kind = Change::Kind::discard;
    change.first_page = round_up(offset, kPageSize) / kPageSize;
    const std::uint64_t end = round_down(std::min(offset + size, node_->current.size), kPageSize);
    for (std::uint64_t at = change.first_page * kPageSize; at < end; at += kPageSize) {
      change.pages.push_back(nullptr);
    }
    return make_change(std::move(change));
  }

  Task<void> read(std::uint64_t offset, MutableBytes out) override {
    if (is_closed()) co_return refuse();
    const Running running(*this);
    const std::shared_ptr<Node> node = node_;
    co_await disk_->wait();
    if (is_closed()) co_return refuse();
    co_return read_now(offset, out);
  }

  Task<void> read_stored(std::uint64_t offset, MutableBytes out) override {
    AGRO_ASSERT(offset % kPageSize == 0);
    AGRO_ASSERT(out.size() % kPageSize == 0);
    AGRO_ASSERT(reinterpret_cast<std::uintptr_t>(out.data()) % kPageSize == 0);
    if (is_closed()) co_return refuse();
    const Running running(*this);
    const std::shared_ptr<Node> node = node_;
    co_await disk_->wait();
    if (is_closed()) co_return refuse();
    co_return read_now(offset, out, true);
  }

  std::optional<Result<void>> try_read(std::uint64_t offset, MutableBytes out) override {
    if (is_closed()) return Result<void>(refuse());
    if (disk_->options.latency_max.count() > 0 && disk_->random.chance(1, 2)) return std::nullopt;
    return read_now(offset, out);
  }

  Task<void> sync() override {
    if (is_closed()) co_return refuse();
    const Running running(*this);
    std::set<std::uint64_t> covered;
    for (const Change& change : node_->unsynced) covered.insert(change.id);
    ++disk_->sync_count;
    co_await disk_->wait();
    if (is_closed()) co_return refuse();
    if (node_->fault.fail_syncs) co_return fail(Errc::io_error, "sync " + path_ + ": injected");
    std::erase_if(node_->unsynced, [&](const Change& change) {
      if (!covered.contains(change.id)) return false;
      change.apply(node_->durable);
      return true;
    });
    co_return Result<void>();
  }

  std::uint64_t size() const override { return node_->current.size; }

  Awaitable<void> close() override {
    closing_ = true;
    while (running_count_ > 0) co_await idle_.wait();
    unlock();
  }

 private:
  /// Counts a call under way.
  struct Running {
    explicit Running(SimFile& the_file) : file(the_file) { ++file.running_count_; }
    ~Running() {
      if (--file.running_count_ == 0) file.idle_.notify_all();
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    SimFile& file;
  };

  bool is_closed() const { return closing_ || node_->crash_count != crash_count_; }
  tl::unexpected<Error> refuse() const { return fail(Errc::closed, path_ + " is closed"); }
  void unlock() {
    if (exclusive_ && node_->crash_count == crash_count_) node_->locked = false;
    exclusive_ = false;
  }

  Result<void> read_now(std::uint64_t offset, MutableBytes out, bool past_cache = false) {
    if (node_->fault.fail_reads) return fail(Errc::io_error, "read " + path_ + ": injected");
    if (offset + out.size() > node_->current.size) {
      return fail(Errc::io_error, "read " + path_ + ": beyond the end");
    }
    if (past_cache)
      node_->current.read(offset, out);
    else
      node_->read(offset, out);
    return {};
  }

  Task<void> make_change(Change change) {
    if (is_closed()) co_return refuse();
    const Running running(*this);
    const std::shared_ptr<Node> node = node_;
    const std::uint64_t id = node->next_id++;
    change.id = id;
    const std::uint64_t size =
        change.kind == Change::Kind::resize ? change.size : change.end();
    node->flying.emplace(id, std::move(change));
    co_await disk_->wait();
    if (node->crash_count != crash_count_) co_return refuse();  // the crash took it
    Change landed = std::move(node->flying.extract(id).mapped());
    if (landed.kind != Change::Kind::discard && !disk_->has_room(*node, size)) {
      co_return fail(Errc::out_of_space, "write " + path_ + ": No space left on device");
    }
    if (node->fault.fail_writes) {
      landed.apply_torn(node->current, disk_->random);  // unknown to the caller, for good
      landed.apply_torn(node->durable, disk_->random);
      co_return fail(Errc::io_error, "write " + path_ + ": injected");
    }
    node->land(landed);
    node->unsynced.push_back(std::move(landed));
    co_return Result<void>();
  }

  std::shared_ptr<SimDisk::State> disk_;
  std::shared_ptr<Node> node_;
  std::string path_;
  std::uint64_t crash_count_;
  bool exclusive_;
  bool closing_ = false;
  std::size_t running_count_ = 0;
  Event idle_;
};

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  return slash == std::string::npos || slash == 0 ? "" : path.substr(0, slash);
}

}  // namespace

SimDisk::SimDisk(Clock& clock, Random random, SimDiskOptions options)
    : state_(std::make_shared<State>(clock, random, options)) {}
SimDisk::~SimDisk() = default;

Task<std::unique_ptr<File>> SimDisk::open(std::string path, OpenOptions options) {
  const std::shared_ptr<State> state = state_;
  const std::uint64_t crash_count = state->crash_count;
  co_await state->wait();
  // A creation that a crash overtakes is kept or lost.
  const bool crashed = state->crash_count != crash_count;
  if (crashed && state->random.chance(1, 2)) co_return fail(Errc::closed, "crashed");
  auto found = state->files.find(path);
  if (found == state->files.end()) {
    if (!options.create) co_return fail(Errc::not_found, "open " + path + ": no such file");
    if (!parent_of(path).empty() && !state->directories.contains(parent_of(path))) {
      co_return fail(Errc::not_found, "open " + path + ": no such directory");
    }
    found = state->files.emplace(path, std::make_shared<Node>()).first;
    found->second->fault = state->faults[path];
  }
  if (crashed) co_return fail(Errc::closed, "crashed");
  if (options.exclusive) {
    if (found->second->locked) {
      co_return fail(Errc::locked, path + " is open in another process; stop that one first");
    }
    found->second->locked = true;
  }
  co_return std::make_unique<SimFile>(state, found->second, path, options.exclusive);
}

Task<void> SimDisk::make_directories(std::string path) {
  const std::shared_ptr<State> state = state_;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  co_await state->wait();
  for (std::string each = path; !each.empty(); each = parent_of(each)) {
    if (state->files.contains(each)) {
      co_return fail(Errc::already_exists, each + " is there and is not a directory");
    }
    state->directories.insert(each);
  }
  co_return Result<void>();
}

Task<std::vector<std::string>> SimDisk::list(std::string path) {
  const std::shared_ptr<State> state = state_;
  co_await state->wait();
  if (!state->directories.contains(path)) co_return fail(Errc::not_found, "list " + path);
  std::set<std::string> names;
  for (const auto& [each, node] : state->files) {
    if (parent_of(each) == path) names.insert(each.substr(path.size() + 1));
  }
  for (const std::string& each : state->directories) {
    if (parent_of(each) == path) names.insert(each.substr(path.size() + 1));
  }
  co_return std::vector<std::string>(names.begin(), names.end());
}

Task<void> SimDisk::remove(std::string path) {
  const std::shared_ptr<State> state = state_;
  co_await state->wait();
  if (state->files.erase(path) + state->directories.erase(path) == 0) {
    co_return fail(Errc::not_found, "remove " + path);
  }
  co_return Result<void>();
}

Task<std::string> SimDisk::read_file(std::string path) {
  const std::shared_ptr<State> state = state_;
  co_await state->wait();
  const auto found = state->files.find(path);
  if (found == state->files.end()) co_return fail(Errc::not_found, "open " + path);
  if (found->second->fault.fail_reads) co_return fail(Errc::io_error, "read " + path);
  std::string text(found->second->current.size, '\0');
  found->second->current.read(0, std::as_writable_bytes(std::span(text)));
  co_return text;
}

Task<void> SimDisk::write_file(std::string path, std::string contents) {
  const std::shared_ptr<State> state = state_;
  const std::uint64_t crash_count = state->crash_count;
  co_await state->wait();
  const bool crashed = state->crash_count != crash_count;
  if (crashed && state->random.chance(1, 2)) co_return fail(Errc::closed, "crashed");
  if (state->faults[path].fail_writes) co_return fail(Errc::io_error, "write " + path);
  if (!parent_of(path).empty() && !state->directories.contains(parent_of(path))) {
    co_return fail(Errc::not_found, "create " + path + ": no such directory");
  }
  auto node = std::make_shared<Node>();
  node->fault = state->faults[path];
  if (!state->has_room(*node, contents.size())) co_return fail(Errc::out_of_space, "write " + path);
  for (std::size_t at = 0; at < contents.size(); at += kPageSize) {
    Page page{};
    const std::size_t count = std::min<std::size_t>(kPageSize, contents.size() - at);
    std::memcpy(page.data(), contents.data() + at, count);
    node->current.set_page(at / kPageSize, make_page(page));
  }
  node->current.size = contents.size();
  node->durable = node->current;
  state->files[path] = std::move(node);
  if (crashed) co_return fail(Errc::closed, "crashed");
  co_return Result<void>();
}

void SimDisk::crash(Random& random) {
  ++state_->crash_count;
  for (auto& [path, node] : state_->files) node->crash(random);
}

void SimDisk::kill() {
  ++state_->crash_count;
  for (auto& [path, node] : state_->files) {
    for (const auto& [id, change] : node->flying) change.apply(node->current);
    node->settle();
  }
}

void SimDisk::set_options(SimDiskOptions options) { state_->options = options; }

void SimDisk::set_fault(const std::string& path, SimFault fault) {
  state_->faults[path] = fault;
  const auto found = state_->files.find(path);
  if (found != state_->files.end()) found->second->fault = fault;
}

void SimDisk::flip(const std::string& path, std::uint64_t offset, std::byte mask) {
  Node& node = state_->node(path);
  AGRO_ASSERT(offset < node.current.size);
  for (Content* content : {&node.current, &node.durable}) {
    Page page = page_of(content->page(offset / kPageSize));
    page[offset % kPageSize] ^= mask;
    content->set_page(offset / kPageSize, make_page(page));
  }
}

void SimDisk::rot(const std::string& path, std::uint64_t offset, std::byte mask) {
  Node& node = state_->node(path);
  const std::uint64_t number = offset / kPageSize;
  if (node.cached.page(number) == nullptr) {
    node.cached.pages[number] = std::make_shared<Page>(page_of(node.current.page(number)));
  }
  flip(path, offset, mask);
}

void SimDisk::truncate(const std::string& path, std::uint64_t size) {
  Node& node = state_->node(path);
  node.current.resize(std::min(size, node.current.size));
  node.durable = node.current;
  node.unsynced.clear();
}

std::uint64_t SimDisk::size_of(const std::string& path) const {
  return state_->node(path).current.size;
}

std::string SimDisk::contents(const std::string& path, std::uint64_t offset,
                              std::uint64_t size) const {
  std::string text(size, '\0');
  state_->node(path).current.read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

bool SimDisk::exists(const std::string& path) const { return state_->files.contains(path); }
std::uint64_t SimDisk::sync_count() const { return state_->sync_count; }
std::uint64_t SimDisk::write_count() const { return state_->write_count; }

}  // namespace agro
