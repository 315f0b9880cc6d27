#include "sim/sim_disk.hpp"

#include <algorithm>
#include <set>

#include "base/mutant.hpp"
#include "sim/sim_disk_node.hpp"

namespace agro {

using sim::Change;
using sim::Content;
using sim::make_page;
using sim::Node;
using sim::Page;
using sim::page_of;

struct SimDisk::State {
  State(Clock& the_clock, Random the_random, SimDiskOptions the_options)
      : clock(the_clock), random(the_random), options(the_options) {}

  Awaitable<void> wait() {
    const auto range = static_cast<std::uint64_t>((options.latency_max - options.latency_min).count());
    const Duration latency =
        (options.latency_min + Duration(range == 0 ? 0 : random.below(range + 1))) *
        options.slowness;
    if (latency.count() == 0) {
      co_await yield_to_loop();
    } else {
      co_await sleep_for(clock, latency);
    }
    while (is_stalled()) co_await sleep_until(clock, stalled_until);
  }
  bool is_stalled() const { return clock.now() < stalled_until; }
  bool happens(std::uint32_t ppm) { return ppm > 0 && random.chance(ppm, 1'000'000); }
  Result<void> in_use() const {
    if (detached) return fail(Errc::closed, "nobody runs on this machine");
    return {};
  }
  std::uint64_t free_size() const {
    std::uint64_t used = 0;
    for (const auto& [path, each] : files) used += each->current.size;
    return used < options.capacity ? options.capacity - used : 0;
  }
  bool has_room(const Node& node, std::uint64_t new_size) const {
    return new_size <= node.current.size || new_size - node.current.size <= free_size();
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
  std::map<std::string, SimFault> file_faults;
  SimDiskFaults faults;
  SimDiskCounts counts;
  TimePoint stalled_until{};
  bool detached = false;
  std::uint64_t crash_count = 0;
  std::uint64_t sync_count = 0;
  std::uint64_t raw_sync_count = 0;
  std::uint64_t write_count = 0;
  std::uint64_t read_count = 0;
};

namespace {

class SimFile final : public File {
 public:
  SimFile(std::shared_ptr<SimDisk::State> disk, std::shared_ptr<Node> node, std::string path,
          OpenOptions options)
      : disk_(std::move(disk)),
        node_(std::move(node)),
        path_(std::move(path)),
        crash_count_(node_->crash_count),
        exclusive_(options.exclusive),
        direct_(options.direct) {}
  ~SimFile() override { unlock(); }

  Task<void> write(FileWrite write) override {
    AGRO_ASSERT(write.offset % kPageSize == 0);
    Change change;
    change.first_page = write.offset / kPageSize;
    for (const ConstBytes part : write.parts) {
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

  Task<void> allocate(std::uint64_t offset, std::uint64_t size) override {
    AGRO_ASSERT(offset % kPageSize == 0);
    AGRO_ASSERT(size % kPageSize == 0);
    Change change;
    change.kind = Change::Kind::allocate;
    change.size = offset + size;
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
    if (direct_ || disk_->is_stalled()) return std::nullopt;
    if (disk_->options.latency_max.count() > 0 && disk_->random.chance(1, 2)) return std::nullopt;
    return read_now(offset, out);
  }

  Task<void> sync() override { return sync_pages(0, UINT64_MAX); }

  Task<void> write_durably(FileWrite the_write) override {
    const std::uint64_t first = the_write.offset / kPageSize;
    std::uint64_t end = first;
    for (const ConstBytes part : the_write.parts) end += part.size() / kPageSize;
    if (node_->is_raw(first, end)) ++disk_->raw_sync_count;
    AGRO_CO_TRY_OK(co_await write(std::move(the_write)));
    if (AGRO_MUTANT(kSyncSkipped)) co_return Result<void>();
    co_return co_await sync_pages(first, end);
  }

  std::uint64_t size() const override { return node_->current.size; }

  Awaitable<void> close() override {
    closing_ = true;
    while (running_count_ > 0) co_await idle_.wait();
    unlock();
  }

 private:
  /// Makes durable what was done to these pages; what a real disk would do beside it is left undone.
  Task<void> sync_pages(std::uint64_t first, std::uint64_t end) {
    if (is_closed()) co_return refuse();
    const Running running(*this);
    std::set<std::uint64_t> covered;
    const bool lies = disk_->faults.lying_sync;
    for (const Change& change : node_->unsynced) {
      if (!lies && change.touches(first, end)) covered.insert(change.id);
    }
    ++disk_->sync_count;
    co_await disk_->wait();
    if (is_closed()) co_return refuse();
    if (node_->fault.fail_syncs || disk_->happens(disk_->faults.sync_error_ppm)) {
      ++disk_->counts.sync_errors;
      co_return fail(Errc::io_error, "sync " + path_ + ": injected");
    }
    if (lies || disk_->faults.lying_sync) {
      ++disk_->counts.lies;
      co_return Result<void>();
    }
    std::erase_if(node_->unsynced, [&](const Change& change) {
      if (!covered.contains(change.id)) return false;
      change.apply(node_->durable);
      return true;
    });
    co_return Result<void>();
  }

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

  bool is_closed() const { return closing_ || disk_->detached || node_->crash_count != crash_count_; }
  tl::unexpected<Error> refuse() const { return fail(Errc::closed, path_ + " is closed"); }
  void unlock() {
    if (exclusive_ && node_->crash_count == crash_count_) node_->locked = false;
    exclusive_ = false;
  }

  /// Whether this call has the mishap, if it can: by chance, or because it was armed.
  bool should(SimMishap mishap, std::uint32_t ppm) {
    return node_->armed.contains(mishap) || disk_->happens(ppm);
  }
  void note(SimMishap mishap, std::uint64_t& count) {
    ++count;
    node_->armed.erase(mishap);
  }

  Result<void> read_now(std::uint64_t offset, MutableBytes out, bool past_cache = false) {
    ++disk_->read_count;
    const SimDiskFaults& faults = disk_->faults;
    if (node_->fault.fail_reads || disk_->happens(faults.read_error_ppm)) {
      ++disk_->counts.read_errors;
      return fail(Errc::io_error, "read " + path_ + ": injected");
    }
    if (offset + out.size() > node_->current.size) {
      return fail(Errc::io_error, "read " + path_ + ": beyond the end");
    }
    if (should(SimMishap::stale_read, faults.stale_read_ppm) && node_->read_stale(offset, out)) {
      note(SimMishap::stale_read, disk_->counts.stale_reads);
      return {};
    }
    if (should(SimMishap::misdirected_read, faults.misdirected_read_ppm)) {
      if (const auto other = node_->elsewhere(offset, out.size(), disk_->random)) {
        note(SimMishap::misdirected_read, disk_->counts.misdirected_reads);
        offset = *other;
      }
    }
    if (past_cache || direct_)
      node_->current.read(offset, out);
    else
      node_->read(offset, out);
    return {};
  }

  void misdirect(Change& change) {
    if (change.kind != Change::Kind::write) return;
    if (!should(SimMishap::misdirected_write, disk_->faults.misdirected_write_ppm)) return;
    const auto other = node_->elsewhere(change.first_page * kPageSize,
                                        change.pages.size() * kPageSize, disk_->random);
    if (!other.has_value()) return;
    note(SimMishap::misdirected_write, disk_->counts.misdirected_writes);
    change.first_page = *other / kPageSize;
  }

  Task<void> make_change(Change change) {
    if (is_closed()) co_return refuse();
    const Running running(*this);
    const std::shared_ptr<Node> node = node_;
    const std::uint64_t id = node->next_id++;
    change.id = id;
    const std::uint64_t size = change.sets_size() ? change.size : change.end();
    node->flying.emplace(id, std::move(change));
    co_await disk_->wait();
    if (node->crash_count != crash_count_) co_return refuse();  // the crash took it
    Change landed = std::move(node->flying.extract(id).mapped());
    if (landed.kind != Change::Kind::discard && !disk_->has_room(*node, size)) {
      ++disk_->counts.full;
      co_return fail(Errc::out_of_space, "write " + path_ + ": No space left on device");
    }
    misdirect(landed);
    if (node->fault.fail_writes || disk_->happens(disk_->faults.write_error_ppm)) {
      ++disk_->counts.write_errors;
      node->land_torn(std::move(landed), disk_->random);  // unknown to the caller, for good
      co_return fail(Errc::io_error, "write " + path_ + ": injected");
    }
    node->land(landed);
    node->note_written(landed, disk_->clock.now());
    node->unsynced.push_back(std::move(landed));
    co_return Result<void>();
  }

  std::shared_ptr<SimDisk::State> disk_;
  std::shared_ptr<Node> node_;
  std::string path_;
  std::uint64_t crash_count_;
  bool exclusive_;
  bool direct_;
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
  AGRO_CO_TRY_OK(state->in_use());
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
    found->second->fault = state->file_faults[path];
  }
  if (crashed) co_return fail(Errc::closed, "crashed");
  if (options.exclusive) {
    if (found->second->locked) {
      co_return fail(Errc::locked, path + " is open in another process; stop that one first");
    }
    found->second->locked = true;
  }
  co_return std::make_unique<SimFile>(state, found->second, path, options);
}

Task<void> SimDisk::make_directories(std::string path) {
  const std::shared_ptr<State> state = state_;
  AGRO_CO_TRY_OK(state->in_use());
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
  AGRO_CO_TRY_OK(state->in_use());
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
  AGRO_CO_TRY_OK(state->in_use());
  co_await state->wait();
  if (state->files.erase(path) + state->directories.erase(path) == 0) {
    co_return fail(Errc::not_found, "remove " + path);
  }
  co_return Result<void>();
}

Task<std::string> SimDisk::read_file(std::string path) {
  const std::shared_ptr<State> state = state_;
  AGRO_CO_TRY_OK(state->in_use());
  co_await state->wait();
  const auto found = state->files.find(path);
  if (found == state->files.end()) co_return fail(Errc::not_found, "open " + path);
  if (found->second->fault.fail_reads) co_return fail(Errc::io_error, "read " + path);
  std::string text(found->second->current.size, '\0');
  found->second->current.read(0, std::as_writable_bytes(std::span(text)));
  co_return text;
}

Task<std::uint64_t> SimDisk::free_space(std::string directory) {
  const std::shared_ptr<State> state = state_;
  AGRO_CO_TRY_OK(state->in_use());
  co_await state->wait();
  if (!state->directories.contains(directory)) co_return fail(Errc::not_found, "look at the space of " + directory);
  co_return state->free_size();
}

Task<void> SimDisk::write_file(std::string path, std::string contents) {
  const std::shared_ptr<State> state = state_;
  AGRO_CO_TRY_OK(state->in_use());
  const std::uint64_t crash_count = state->crash_count;
  co_await state->wait();
  const bool crashed = state->crash_count != crash_count;
  if (crashed && state->random.chance(1, 2)) co_return fail(Errc::closed, "crashed");
  if (state->file_faults[path].fail_writes) co_return fail(Errc::io_error, "write " + path);
  if (!parent_of(path).empty() && !state->directories.contains(parent_of(path))) {
    co_return fail(Errc::not_found, "create " + path + ": no such directory");
  }
  auto node = std::make_shared<Node>();
  node->fault = state->file_faults[path];
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

void SimDisk::replace() {
  ++state_->crash_count;
  for (auto& [path, node] : state_->files) node->crash(state_->random);
  state_->files.clear();
  state_->directories.clear();
}

void SimDisk::write_back() {
  for (auto& [path, node] : state_->files) {
    for (const Change& change : node->unsynced) change.apply(node->durable);
    node->unsynced.clear();
  }
}

void SimDisk::set_detached(bool detached) { state_->detached = detached; }

void SimDisk::set_faults(SimDiskFaults faults) { state_->faults = faults; }
const SimDiskFaults& SimDisk::faults() const { return state_->faults; }

void SimDisk::arm(const std::string& path, SimMishap mishap) { state_->node(path).armed.insert(mishap); }

void SimDisk::stall_for(Duration duration) {
  ++state_->counts.stalls;
  state_->stalled_until = std::max(state_->stalled_until, state_->clock.now() + duration);
}

const SimDiskCounts& SimDisk::counts() const { return state_->counts; }

std::vector<std::string> SimDisk::files() const {
  std::vector<std::string> paths;
  for (const auto& [path, node] : state_->files) paths.push_back(path);
  return paths;
}

void SimDisk::set_options(SimDiskOptions options) { state_->options = options; }

void SimDisk::set_fault(const std::string& path, SimFault fault) {
  state_->file_faults[path] = fault;
  const auto found = state_->files.find(path);
  if (found != state_->files.end()) found->second->fault = fault;
}

void SimDisk::flip(const std::string& path, std::uint64_t offset, std::byte mask) {
  Node& node = state_->node(path);
  AGRO_ASSERT(offset < node.current.size);
  ++state_->counts.flips;
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

bool SimDisk::is_at_rest(const std::string& path, std::uint64_t offset, std::uint64_t size) const {
  const TimePoint now = state_->clock.now();
  for (const Node::RecentWrite& write : state_->node(path).recent_writes) {
    if (write.at < now - sim::kRecent) continue;
    if (write.first_page * kPageSize < offset + size && offset < write.end_page * kPageSize) return false;
  }
  return true;
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
std::uint64_t SimDisk::raw_sync_count() const { return state_->raw_sync_count; }
std::uint64_t SimDisk::write_count() const { return state_->write_count; }
std::uint64_t SimDisk::read_count() const { return state_->read_count; }

}  // namespace agro
