#include "csi/mounter.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>

#include "csi/process.hpp"

namespace agro::csi {
namespace {

using Json = nlohmann::ordered_json;

constexpr Duration kQuick = std::chrono::seconds(30);
constexpr Duration kSlow = std::chrono::minutes(10);  // mkfs of a large volume
constexpr int kBlkidFoundNothing = 2;
constexpr std::size_t kProbedSize = std::size_t{1} << 20;

Result<std::string> read_whole(const std::string& path) {
  std::ifstream file(path);
  if (!file) return fail(Errc::not_found, path + " cannot be read");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// blkid says the same of a device that is empty and of one that cannot be read, and the first is going to be formatted.
Result<void> check_readable(const std::string& device) {
  std::ifstream file(device, std::ios::binary);
  std::vector<char> bytes(kProbedSize);
  if (file) file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.is_open() || file.bad() || file.gcount() == 0) return fail(Errc::io_error, device + " cannot be read");
  return {};
}

Result<void> done(Result<std::string> output) {
  if (!output.has_value()) return fail(std::move(output).error());
  return {};
}

class ToolMounter final : public Mounter {
 public:
  Result<std::vector<MountEntry>> mounts() override {
    AGRO_TRY(const std::string text, read_whole("/proc/self/mountinfo"));
    return parse_mounts(text);
  }

  Result<std::optional<std::string>> file_system_of(const std::string& device) override {
    AGRO_TRY_OK(check_readable(device));
    AGRO_TRY(const ToolOutput output, run_tool({"blkid", "-p", "-s", "TYPE", "-o", "value", device}, kQuick));
    if (output.status == kBlkidFoundNothing) return std::optional<std::string>();
    if (output.status != 0) return fail(Errc::io_error, fmt::format("blkid {} failed: {}", device, output.text));
    const std::string type = output.text.substr(0, output.text.find('\n'));
    return std::optional<std::string>(type.empty() ? "unknown" : type);  // partitions, say
  }

  Result<void> format(const std::string& device, const std::string& fs_type) override {
    if (fs_type == "xfs") return done(must_run({"mkfs.xfs", "-q", device}, kSlow));
    // Root needs no reserve on a volume of its own; the check for another file system was ours.
    return done(must_run({"mkfs." + fs_type, "-q", "-F", "-m", "0", device}, kSlow));
  }

  Result<void> mount(const std::string& device, const std::string& path, const std::string& fs_type,
                     const std::vector<std::string>& flags) override {
    std::vector<std::string> words = {"mount", "-t", fs_type};
    std::vector<std::string> all = flags;
    // A clone has its origin's UUID, and both may be mounted here.
    if (fs_type == "xfs") all.emplace_back("nouuid");
    if (!all.empty()) {
      words.emplace_back("-o");
      words.push_back(fmt::format("{}", fmt::join(all, ",")));
    }
    words.insert(words.end(), {device, path});
    return done(must_run(words, kSlow));
  }

  Result<void> bind(const std::string& source, const std::string& path, bool read_only) override {
    AGRO_TRY_OK(done(must_run({"mount", "--bind", source, path}, kQuick)));
    if (!read_only) return {};
    Result<void> remounted = done(must_run({"mount", "-o", "remount,bind,ro", path}, kQuick));
    if (remounted.has_value()) return {};
    const Result<void> undone = unmount(path);  // nobody must take it for read-only
    Error error = std::move(remounted).error();
    if (!undone.has_value()) error.message += "; then: " + undone.error().message;
    return fail(std::move(error));
  }

  Result<void> unmount(const std::string& path) override { return done(must_run({"umount", path}, kSlow)); }

  Result<void> grow(const std::string& device, const std::string& path, const std::string& fs_type) override {
    if (fs_type == "xfs") return done(must_run({"xfs_growfs", path}, kSlow));
    return done(must_run({"resize2fs", device}, kSlow));
  }

  Result<void> set_read_only(const std::string& device) override {
    return done(must_run({"blockdev", "--setro", device}, kQuick));
  }
};

/// Its file: {"mounts": {PATH: {"source", "fs_type", "read_only"}}, "file_systems": {DEVICE: {"type", "size"}}}.
class FakeMounter final : public Mounter {
 public:
  explicit FakeMounter(const std::string& folder) : path_(folder + "/mounts.json") {
    const Result<std::string> text = read_whole(path_);
    state_ = text.has_value() ? Json::parse(*text, nullptr, false) : Json();
    if (!state_.is_object()) state_ = {{"mounts", Json::object()}, {"file_systems", Json::object()}};
  }

  Result<std::vector<MountEntry>> mounts() override {
    const std::lock_guard lock(mutex_);
    std::vector<MountEntry> all;
    for (const auto& [path, mount] : state_["mounts"].items())
      all.push_back({path, "/", mount["source"].get<std::string>(), mount["fs_type"].get<std::string>(), mount["read_only"].get<bool>()});
    return all;
  }
  Result<std::optional<std::string>> file_system_of(const std::string& device) override {
    const std::lock_guard lock(mutex_);
    const auto found = state_["file_systems"].find(device);
    if (found == state_["file_systems"].end()) return std::optional<std::string>();
    return std::optional<std::string>((*found)["type"].get<std::string>());
  }
  Result<void> format(const std::string& device, const std::string& fs_type) override {
    const std::lock_guard lock(mutex_);
    state_["file_systems"][device] = {{"type", fs_type}, {"size", size_of(device)}};
    return save();
  }
  Result<void> mount(const std::string& device, const std::string& path, const std::string& fs_type,
                     const std::vector<std::string>& flags) override {
    const std::lock_guard lock(mutex_);
    const bool read_only = std::find(flags.begin(), flags.end(), "ro") != flags.end();
    state_["mounts"][path] = {{"source", device}, {"fs_type", fs_type}, {"read_only", read_only}, {"flags", flags}};
    return save();
  }
  Result<void> bind(const std::string& source, const std::string& path, bool read_only) override {
    const std::lock_guard lock(mutex_);
    state_["mounts"][path] = {{"source", source}, {"fs_type", "bind"}, {"read_only", read_only}};
    return save();
  }
  Result<void> unmount(const std::string& path) override {
    const std::lock_guard lock(mutex_);
    if (state_["mounts"].erase(path) == 0) return fail(Errc::not_found, path + " is not mounted");
    return save();
  }
  Result<void> grow(const std::string& device, const std::string& /*path*/, const std::string& /*fs_type*/) override {
    const std::lock_guard lock(mutex_);
    state_["file_systems"][device]["size"] = size_of(device);
    return save();
  }
  Result<void> set_read_only(const std::string& device) override {
    const std::lock_guard lock(mutex_);
    state_["read_only"][device] = true;
    return save();
  }

 private:
  static std::uint64_t size_of(const std::string& device) {
    std::error_code problem;
    const std::uint64_t size = std::filesystem::file_size(device, problem);
    return problem ? 0 : size;
  }
  Result<void> save() {
    std::ofstream file(path_ + ".new");
    file << state_.dump(1) << "\n";
    file.close();
    std::error_code problem;
    if (file) std::filesystem::rename(path_ + ".new", path_, problem);
    if (!file || problem) return fail(Errc::io_error, path_ + " cannot be written");
    return {};
  }

  std::string path_;
  std::mutex mutex_;
  Json state_;
};

}  // namespace

std::unique_ptr<Mounter> make_tool_mounter() { return std::make_unique<ToolMounter>(); }
std::unique_ptr<Mounter> make_fake_mounter(std::string folder) { return std::make_unique<FakeMounter>(folder); }

}  // namespace agro::csi
