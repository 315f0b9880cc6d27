#include "base/system_disk.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace agro {
namespace {

template <class T>
Job store_result(Task<T> task, std::optional<Result<T>>& out) {
  Result<T> result = co_await std::move(task);
  out.emplace(std::move(result));
}

/// Where, and whether past the page cache.
struct Way {
  const char* directory;
  bool direct;
  const char* name;
};

/// A temporary directory and a loop. Real files: this is the test of the real disk.
class SystemDiskTest : public ::testing::TestWithParam<Way> {
 protected:
  SystemDiskTest() {
    std::string pattern = std::string(GetParam().directory) + "/agro_disk_XXXXXX";
    const char* made = ::mkdtemp(pattern.data());
    EXPECT_NE(made, nullptr);
    directory_ = pattern;
    disk_ = std::make_unique<SystemDisk>(loop_);
  }
  ~SystemDiskTest() override {
    disk_.reset();
    std::filesystem::remove_all(directory_);
  }

  template <class T>
  Result<T> run(Task<T> task) {
    std::optional<Result<T>> result;
    spawn(loop_.get_executor(), store_result<T>(std::move(task), result));
    loop_.restart();
    while (!result.has_value()) loop_.run_one();
    return std::move(*result);
  }
  Result<std::unique_ptr<File>> open(const char* name, OpenOptions options = {.create = true}) {
    options.direct = GetParam().direct;
    return run(disk_->open(directory_ + "/" + name, options));
  }
  void close(File& file) {
    std::optional<Result<void>> result;
    spawn(loop_.get_executor(), close_file(file, result));
    loop_.restart();
    while (!result.has_value()) loop_.run_one();
  }
  static Job close_file(File& file, std::optional<Result<void>>& out) {
    co_await file.close();
    out.emplace();
  }

  asio::io_context loop_{1};
  std::string directory_;
  std::unique_ptr<SystemDisk> disk_;
};

AlignedBuffer filled(std::size_t size, char value) {
  AlignedBuffer buffer(size);
  std::memset(buffer.data(), value, size);
  return buffer;
}

std::string read_text(ConstBytes bytes) { return std::string(as_text(bytes)); }

TEST_P(SystemDiskTest, WritesGatherAndReadBack) {
  const std::unique_ptr<File> file = open("data").value();
  const AlignedBuffer a = filled(kPageSize, 'a');
  const AlignedBuffer b = filled(2 * kPageSize, 'b');
  ASSERT_TRUE(run(file->write(kPageSize, {a.bytes(), b.bytes()})));
  EXPECT_EQ(file->size(), 4 * kPageSize);
  ASSERT_TRUE(run(file->sync()));
  AlignedBuffer out(4 * kPageSize);
  ASSERT_TRUE(run(file->read(0, out.bytes())));
  EXPECT_EQ(read_text(out.bytes()), std::string(kPageSize, '\0') + std::string(kPageSize, 'a') +
                                        std::string(2 * kPageSize, 'b'));
  // Odd offsets and sizes; and what was read is in memory now.
  std::array<std::byte, 2> edge{};
  ASSERT_TRUE(run(file->read(2 * kPageSize - 1, edge)));
  EXPECT_EQ(read_text(edge), "ab");
  const auto at_once = file->try_read(2 * kPageSize - 1, edge);
  ASSERT_EQ(at_once.has_value(), !GetParam().direct);
  if (at_once.has_value()) EXPECT_TRUE(at_once->has_value());
  AlignedBuffer stored(2 * kPageSize);
  ASSERT_TRUE(run(file->read_stored(kPageSize, stored.bytes())));
  EXPECT_EQ(read_text(stored.bytes()), std::string(kPageSize, 'a') + std::string(kPageSize, 'b'));
  // Overwritten, the page cache must not serve the old bytes.
  std::vector<FileWrite> writes;
  writes.push_back({kPageSize, {b.bytes().first(kPageSize)}});
  writes.push_back({2 * kPageSize, {a.bytes()}});
  ASSERT_TRUE(run(file->write_and_sync(std::move(writes))));
  ASSERT_TRUE(run(file->read(2 * kPageSize - 1, edge)));
  EXPECT_EQ(read_text(edge), "ba");
  ASSERT_TRUE(run(file->write_durably({.offset = kPageSize, .parts = {a.bytes(), b.bytes()}})));
  ASSERT_TRUE(run(file->read(2 * kPageSize - 1, edge)));
  EXPECT_EQ(read_text(edge), "ab");
  close(*file);
}

TEST_P(SystemDiskTest, BeyondTheEndAndAfterCloseAreErrors) {
  const std::unique_ptr<File> file = open("data").value();
  AlignedBuffer out(kPageSize);
  EXPECT_EQ(run(file->read(0, out.bytes())).code(), Errc::io_error);
  ASSERT_TRUE(run(file->resize(3 * kPageSize)));
  EXPECT_EQ(file->size(), 3 * kPageSize);
  EXPECT_TRUE(run(file->read(2 * kPageSize, out.bytes())));
  EXPECT_TRUE(run(file->discard(0, kPageSize)));
  close(*file);
  EXPECT_EQ(run(file->read(0, out.bytes())).code(), Errc::closed);
  EXPECT_EQ(run(file->write(0, {out.bytes()})).code(), Errc::closed);
  EXPECT_EQ(run(file->sync()).code(), Errc::closed);
  EXPECT_EQ(file->try_read(0, out.bytes())->code(), Errc::closed);
}

TEST_P(SystemDiskTest, ExclusiveIsExclusive) {
  EXPECT_EQ(open("data", {}).code(), Errc::not_found);
  std::unique_ptr<File> file = open("data", {.create = true, .exclusive = true}).value();
  EXPECT_EQ(open("data", {.exclusive = true}).code(), Errc::locked);
  close(*file);
  EXPECT_TRUE(open("data", {.exclusive = true}).has_value());
}

// Goal: a lock that is given back a moment late is waited for. Method: who wants it is submitted first.
TEST_P(SystemDiskTest, LocksAreWaitedFor) {
  std::unique_ptr<File> holder = open("data", {.create = true, .exclusive = true}).value();
  std::optional<Result<std::unique_ptr<File>>> second;
  const OpenOptions options{.exclusive = true, .direct = GetParam().direct};
  spawn(loop_.get_executor(), store_result(disk_->open(directory_ + "/data", options), second));
  std::optional<Result<void>> closed;
  spawn(loop_.get_executor(), close_file(*holder, closed));
  loop_.restart();
  while (!second.has_value() || !closed.has_value()) loop_.run_one();
  EXPECT_TRUE(second->has_value()) << second->error().to_string();
}

TEST_P(SystemDiskTest, DirectoriesAndSmallFiles) {
  const std::string nested = directory_ + "/a/b/c";
  ASSERT_TRUE(run(disk_->make_directories(nested)));
  ASSERT_TRUE(run(disk_->make_directories(nested + "/")));
  ASSERT_TRUE(run(disk_->write_file(nested + "/two", "2")));
  ASSERT_TRUE(run(disk_->write_file(nested + "/one", "old")));
  ASSERT_TRUE(run(disk_->write_file(nested + "/one", std::string(100'000, 'x'))));
  EXPECT_EQ(run(disk_->read_file(nested + "/one")).value(), std::string(100'000, 'x'));
  EXPECT_GT(run(disk_->free_space(nested)).value(), 0U);
  EXPECT_EQ(run(disk_->free_space(nested + "/nowhere")).code(), Errc::not_found);
  EXPECT_EQ(run(disk_->list(nested)).value(), (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(run(disk_->make_directories(nested + "/one")).code(), Errc::already_exists);
  EXPECT_EQ(run(disk_->make_directories(nested + "/one/deeper")).code(), Errc::already_exists);
  // Its parent is there and still it says ENOENT, for ever.
  EXPECT_EQ(run(disk_->make_directories("/proc/agro-test/deeper")).code(), Errc::not_found);
  ASSERT_TRUE(run(disk_->remove(nested + "/one")));
  EXPECT_EQ(run(disk_->remove(nested + "/one")).code(), Errc::not_found);
  EXPECT_EQ(run(disk_->read_file(nested + "/one")).code(), Errc::not_found);
  EXPECT_EQ(run(disk_->list(directory_ + "/none")).code(), Errc::not_found);
}

Job read_part(File& file, std::uint64_t offset, std::vector<std::byte>& out, std::size_t& right_count) {
  const Result<void> read = co_await file.read(offset, out);
  bool right = true;
  for (std::size_t at = 0; at < out.size(); ++at) {
    right = right && out[at] == static_cast<std::byte>((offset + at) / kPageSize);
  }
  EXPECT_TRUE(read.has_value()) << read.error().to_string();
  EXPECT_TRUE(right) << offset << ' ' << out.size();
  if (read.has_value() && right) ++right_count;
}

// Goal: reads of any shape are right, also more at once, and larger, than there are registered buffers.
TEST_P(SystemDiskTest, ManyOddReadsAtOnce) {
  constexpr std::size_t kPages = 128;
  constexpr std::size_t kReads = 200;
  const std::unique_ptr<File> file = open("data").value();
  AlignedBuffer data(kPages * kPageSize);
  for (std::size_t at = 0; at < data.size(); ++at) data.data()[at] = static_cast<std::byte>(at / kPageSize);
  std::vector<FileWrite> writes;
  writes.push_back({0, {data.bytes()}});
  ASSERT_TRUE(run(file->write_and_sync(std::move(writes))));
  std::vector<std::vector<std::byte>> parts;
  for (std::size_t index = 0; index < kReads; ++index) parts.emplace_back(1 + index * 997 % 200'000);
  std::size_t right_count = 0;
  TaskGroup reads(loop_.get_executor());
  for (std::size_t index = 0; index < kReads; ++index) {
    const std::uint64_t offset = index * 7919 % (data.size() - parts[index].size());
    reads.spawn(read_part(*file, offset, parts[index], right_count));
  }
  loop_.restart();
  while (reads.count() > 0) loop_.run_one();
  EXPECT_EQ(right_count, kReads);
  std::array<std::byte, 2> edge{};
  EXPECT_EQ(run(file->read(data.size() - 1, edge)).code(), Errc::io_error);
  close(*file);
}

// Goal: reserved space is there, reads as zeros and takes writes; what was written before stays.
TEST_P(SystemDiskTest, SpaceIsReserved) {
  constexpr std::uint64_t kSize = 256 * kPageSize;
  const std::unique_ptr<File> file = open("data").value();
  AlignedBuffer page(kPageSize);
  std::memset(page.data(), 'x', kPageSize);
  ASSERT_TRUE(run(file->write(0, {page.bytes()})));
  ASSERT_TRUE(run(file->allocate(0, kPageSize)));
  ASSERT_TRUE(run(file->allocate(kPageSize, kSize - kPageSize)));
  EXPECT_EQ(file->size(), kSize);
  EXPECT_EQ(std::filesystem::file_size(directory_ + "/data"), kSize);
  ASSERT_TRUE(run(file->write(kSize - kPageSize, {page.bytes()})));
  ASSERT_TRUE(run(file->sync()));
  AlignedBuffer all(kSize);
  ASSERT_TRUE(run(file->read(0, all.bytes())));
  for (std::uint64_t at = 0; at < kSize; ++at) {
    const bool inside = at >= kPageSize && at < kSize - kPageSize;
    ASSERT_EQ(static_cast<char>(all.bytes()[at]), inside ? '\0' : 'x') << at;
  }
  EXPECT_NE(run(file->allocate(0, std::uint64_t{1} << 62)).code(), Errc::ok);
  close(*file);
  EXPECT_EQ(run(file->allocate(0, kPageSize)).code(), Errc::closed);
}

// Goal: a file that ends within a page is read to its end.
TEST_P(SystemDiskTest, OddEnds) {
  const std::unique_ptr<File> file = open("data").value();
  ASSERT_TRUE(run(file->resize(kPageSize + 100)));
  std::array<std::byte, 150> out{};
  EXPECT_TRUE(run(file->read(kPageSize - 50, out)));
  EXPECT_EQ(run(file->read(kPageSize - 49, out)).code(), Errc::io_error);
  close(*file);
}

// A disk, past the page cache too, and, where O_DIRECT or RWF_NOWAIT may be missing, a memory file system.
INSTANTIATE_TEST_SUITE_P(FileSystems, SystemDiskTest,
                         ::testing::Values(Way{"/var/tmp", false, "disk"}, Way{"/var/tmp", true, "direct"},
                                           Way{"/dev/shm", false, "memory"}),
                         [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace agro
