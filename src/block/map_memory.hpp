// Map memory: what the loaded map pages of a process's volumes may take together.
//
// A share a volume; whoever makes its map larger settles its share, and then clean pages go, of all
// volumes in turn (CLOCK), until the limit is kept or what is left was used lately, is pinned or
// must be written first. So the limit is kept as far as checkpoints keep up.
// Threading: one loop; volumes on several loops need one of these each.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "block/volume_map.hpp"

namespace agro {

inline constexpr std::size_t kMapMemoryDefault = std::size_t{256} * 1024 * 1024;

class MapMemory {
 public:
  explicit MapMemory(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  /// A volume's part. Shape: `map` outlives it.
  class Share {
   public:
    Share(std::shared_ptr<MapMemory> memory, VolumeMap& map);
    ~Share();
    Share(const Share&) = delete;
    Share& operator=(const Share&) = delete;

    /// Counts what the map takes now and evicts while that is too much, in `rounds` small steps.
    void settle(std::size_t rounds);
    bool is_over() const { return memory_->used_bytes_ > memory_->limit_bytes_; }

   private:
    friend class MapMemory;
    void count();

    std::shared_ptr<MapMemory> memory_;
    VolumeMap& map_;
    std::size_t counted_bytes_ = 0;
  };

  std::size_t used_bytes() const { return used_bytes_; }
  std::size_t limit_bytes() const { return limit_bytes_; }

 private:
  std::size_t limit_bytes_;
  std::size_t used_bytes_ = 0;
  std::vector<Share*> shares_;
  std::size_t hand_ = 0;  // in shares_
};

/// Keeps pages of a map in memory while it lives; they need not be loaded yet.
class PagePin {
 public:
  PagePin() = default;
  /// Pages [first, end).
  PagePin(VolumeMap& map, std::uint32_t first, std::uint32_t end);
  ~PagePin();
  PagePin(PagePin&& other) noexcept;
  PagePin& operator=(PagePin&& other) noexcept;

 private:
  VolumeMap* map_ = nullptr;
  std::uint32_t first_ = 0;
  std::uint32_t end_ = 0;
};

}  // namespace agro
