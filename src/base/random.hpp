// Randomness as a value one passes in: a seed is a run.
//
// Source: xoshiro256** by Blackman and Vigna (public domain), seeded through splitmix64.
#pragma once

#include <array>
#include <cstdint>

namespace agro {

/// One stream of random numbers. Give each purpose its own, by fork().
class Random {
 public:
  explicit Random(std::uint64_t seed);
  /// Seeded by the operating system; only real programs call it.
  static Random from_os();

  std::uint64_t next();
  /// Uniform in [0, bound). Shape: bound > 0.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  /// True with probability numerator / denominator.
  bool chance(std::uint64_t numerator, std::uint64_t denominator) {
    return below(denominator) < numerator;
  }
  /// A new stream that depends on this one's state and moves it on.
  Random fork() { return Random(next()); }

 private:
  std::array<std::uint64_t, 4> state_;
};

}  // namespace agro
