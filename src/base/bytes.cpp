#include "base/bytes.hpp"

#include <cstdlib>
#include <new>

namespace agro {

AlignedBuffer::AlignedBuffer(std::size_t size) : size_(round_up(size, kPageSize)) {
  if (size_ == 0) return;
  data_ = static_cast<std::byte*>(std::aligned_alloc(kPageSize, size_));
  if (data_ == nullptr) throw std::bad_alloc();
}

AlignedBuffer::~AlignedBuffer() { std::free(data_); }

SharedBytes copy_shared(ConstBytes bytes) {
  auto buffer = std::make_shared<AlignedBuffer>(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer->data(), bytes.data(), bytes.size());
  const ConstBytes view(buffer->data(), bytes.size());
  return {std::move(buffer), view};
}

BufferPool::BufferPool(std::size_t buffer_size, std::size_t kept_count_max)
    : buffer_size_(round_up(buffer_size, kPageSize)),
      shelf_(std::make_shared<Shelf>(Shelf{kept_count_max, {}})) {}

std::shared_ptr<AlignedBuffer> BufferPool::take() {
  std::unique_ptr<AlignedBuffer> buffer;
  if (shelf_->idle.empty()) {
    buffer = std::make_unique<AlignedBuffer>(buffer_size_);
  } else {
    buffer = std::move(shelf_->idle.back());
    shelf_->idle.pop_back();
  }
  return {buffer.release(), [shelf = shelf_](AlignedBuffer* used) {
            std::unique_ptr<AlignedBuffer> owned(used);
            if (shelf->idle.size() < shelf->kept_count_max) shelf->idle.push_back(std::move(owned));
          }};
}

}  // namespace agro
