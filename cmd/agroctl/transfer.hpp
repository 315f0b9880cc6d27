// Transfers: a whole device to an image and back, several pieces at once, holes left out.
//
// Invariants: a transfer that succeeded has moved every byte; the first error stops it, and when
// run_transfer() returns nothing touches device, source or sink any more.
// Threading: one loop.
#pragma once

#include <functional>
#include <memory>

#include "agroctl/image_file.hpp"
#include "agroctl/progress.hpp"
#include "base/async.hpp"
#include "base/system_env.hpp"
#include "block/block_device.hpp"

namespace agro {

/// One way of moving data; work() runs several times at once.
class Transfer {
 public:
  virtual ~Transfer() = default;
  /// Moves pieces until there are none left, or failed().
  virtual Task<void> work() = 0;
  /// Ends waiting for pipes.
  virtual void cancel() = 0;

  bool failed() const { return !result_.has_value(); }
  /// The first error is kept.
  void fail_with(Error error) {
    if (result_.has_value()) result_ = fail(std::move(error));
    changed_.notify_all();
  }
  const Result<void>& result() const { return result_; }
  Event& changed() { return changed_; }
  /// Bytes that were not holes or zeros.
  std::uint64_t data_size() const { return data_size_; }

 protected:
  explicit Transfer(Progress& progress) : progress_(progress) {}
  Progress& progress_;
  std::uint64_t data_size_ = 0;

 private:
  Result<void> result_;
  Event changed_;
};

/// Image to device. Zeros become holes, unless `blank` says that the device has nothing else yet.
/// All references outlive it.
std::unique_ptr<Transfer> make_load(BlockDevice& device, ImageSource& source, bool blank,
                                    Progress& progress);
/// Device to image.
std::unique_ptr<Transfer> make_dump(BlockDevice& device, ImageSink& sink, Progress& progress);

/// Runs a transfer and shows its progress, until it is done, failed or a signal came; then
/// `release` (once, also after success), which must end calls that wait in the device, and its
/// result counts too.
Task<void> run_transfer(SystemEnv& system, Transfer& transfer, Progress& progress,
                        std::function<Task<void>(bool moved)> release);

/// Whether the device holds nothing at all.
Task<bool> is_blank(BlockDevice& device);

}  // namespace agro
