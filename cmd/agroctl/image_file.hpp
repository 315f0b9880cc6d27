// Image files: what `block load` reads and `block dump` writes; sparse files, devices and pipes.
//
// These are the user's own files outside the cluster, which no simulation replaces, hence plain
// system calls (off the loop) instead of the Disk seam, which knows neither holes nor pipes.
// Invariants: an existing file is only touched by ImageSink::open, and what is skipped in a file
// reads as zeros. Threading: one loop; cancel() ends waiting for a pipe within kPollInterval.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/descriptor.hpp"
#include "base/offload.hpp"

namespace agro {

class ImageSource {
 public:
  /// A part of a file: bytes, or a hole.
  struct Run {
    std::uint64_t size = 0;
    bool hole = false;
  };

  /// Opens a file, a block device, or with "-" standard input. Errors: not_found; invalid_argument
  /// (a directory); io_error. Shape: `offload` outlives it.
  static Result<std::unique_ptr<ImageSource>> open(Offload& offload, const std::string& path);

  const std::string& name() const { return name_; }
  /// A pipe can only be read from front to end, and says nothing about its size.
  bool is_stream() const { return is_stream_; }
  bool is_device() const { return is_device_; }
  std::uint64_t size() const { return size_; }
  /// The first bytes, which a read gets all the same; less only at the end. Shape: before the first read.
  Task<std::size_t> peek(MutableBytes out);

  /// What the bytes from `offset` on are. Shape: no stream; offset < size().
  Task<Run> run_at(std::uint64_t offset);
  /// Fills `out`; less only at the end. Streams ignore `offset` and allow one read at a time.
  Task<std::size_t> read(std::uint64_t offset, MutableBytes out);
  void cancel() { cancelled_ = true; }

 private:
  explicit ImageSource(Offload& offload) : offload_(offload) {}
  Result<std::size_t> read_now(std::uint64_t offset, MutableBytes out);

  Offload& offload_;
  Descriptor descriptor_;
  std::string name_;
  bool is_stream_ = false;
  bool is_device_ = false;
  std::vector<std::byte> peeked_;  // of a stream
  std::uint64_t size_ = 0;
  std::atomic<bool> cancelled_ = false;
};

class ImageSink {
 public:
  /// Opens for `size` bytes: makes or empties a file, or takes a block device, a pipe, or with "-"
  /// standard output. Of a file that is there the first `kept` bytes stay. Errors: io_error; out_of_space
  /// (the device is smaller).
  static Result<std::unique_ptr<ImageSink>> open(Offload& offload, const std::string& path,
                                                 std::uint64_t size, std::uint64_t kept = 0);

  /// Whether bytes that are not written read as zeros.
  bool is_sparse() const { return is_sparse_; }
  /// Whether writes must come in order, without gaps, one at a time.
  bool is_stream() const { return is_stream_; }

  Task<void> write(std::uint64_t offset, ConstBytes bytes);
  /// Makes a file durable.
  Task<void> finish();
  void cancel() { cancelled_ = true; }

 private:
  explicit ImageSink(Offload& offload) : offload_(offload) {}
  Result<void> write_now(std::uint64_t offset, ConstBytes bytes);

  Offload& offload_;
  Descriptor descriptor_;
  std::string name_;
  bool is_sparse_ = false;
  bool is_stream_ = false;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace agro
