#include "ring/failure_domains.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "base/assert.hpp"

namespace agro {

FailureDomains::FailureDomains(const std::vector<RingMember>& members) {
  std::array<std::map<std::vector<std::string>, std::uint16_t>, kLevelCount> numbers;
  for (const RingMember& member : members) {
    const PeerLabels& labels = member.labels;
    std::vector<std::string> path;
    if (labels == PeerLabels()) path.push_back(member.id.to_string());
    std::array<std::uint16_t, kLevelCount> own{};
    for (std::size_t level = 0; level < kLevelCount; ++level) {
      const std::array names = {&labels.zone, &labels.rack, &labels.host};
      path.push_back(*names[level]);
      const auto next = static_cast<std::uint16_t>(numbers[level].size());
      own[level] = numbers[level].try_emplace(path, next).first->second;
    }
    domains_.push_back(own);
  }
  trivial_ = numbers[0].size() == members.size() || numbers[2].size() <= 1;
}

std::uint32_t FailureDomains::collisions(std::span<const std::uint16_t> owners,
                                         std::uint16_t candidate) const {
  const auto& own = domains_[candidate];
  std::uint32_t count = 0;
  for (const std::uint16_t owner : owners) {
    if (owner == candidate) continue;
    const auto& other = domains_[owner];
    if (own[0] == other[0]) count += 1U << 16;
    if (own[1] == other[1]) count += 1U << 8;
    if (own[2] == other[2]) count += 1;
  }
  return count;
}

std::uint32_t FailureDomains::collisions(std::span<const std::uint16_t> owners) const {
  AGRO_ASSERT(owners.size() <= 16);
  std::uint32_t count = 0;
  for (std::size_t index = 1; index < owners.size(); ++index) {
    count += collisions(owners.first(index), owners[index]);
  }
  return count;
}

std::vector<FailureDomains::Some> FailureDomains::split(const Some& some,
                                                        std::size_t level) const {
  std::map<std::uint16_t, Some> by_domain;
  for (const std::uint16_t member : some) {
    by_domain[level < kLevelCount ? domains_[member][level] : member].push_back(member);
  }
  std::vector<Some> children;
  for (auto& [domain, child] : by_domain) children.push_back(std::move(child));
  return children;
}

namespace {

/// Gives out `total` in proportion to `weights`, to nobody more than 1.
std::vector<double> fill_up_to_one(const std::vector<double>& weights, double total) {
  std::vector<double> filled(weights.size(), 0);
  std::vector<bool> full(weights.size(), false);
  for (bool again = true; again;) {
    again = false;
    double weight_left = 0;
    double left = total;
    for (std::size_t index = 0; index < weights.size(); ++index) {
      if (full[index]) left -= 1;
      if (!full[index]) weight_left += weights[index];
    }
    for (std::size_t index = 0; index < weights.size(); ++index) {
      if (full[index] || weight_left <= 0) continue;
      filled[index] = weights[index] / weight_left * std::max(left, 0.0);
      if (filled[index] < 1) continue;
      filled[index] = 1;
      full[index] = again = true;
    }
  }
  return filled;
}

}  // namespace

/// Walks down the tree of domains: each domain gets as many replicas of a group as its siblings, the
/// ones that cannot be split evenly go by weight.
struct FailureDomains::Spread {
  const FailureDomains& domains;
  const std::vector<RingMember>& members;
  std::vector<double> shares;

  double weight_of(const Some& some) const {
    double sum = 0;
    for (const std::uint16_t member : some) sum += static_cast<double>(members[member].weight);
    return sum;
  }

  /// With this probability a group has `count` replicas among `some`.
  void run(const Some& some, std::size_t level, std::size_t count, double probability) {
    if (count == 0 || some.empty()) return;
    if (level > kLevelCount) {
      shares[some.front()] += probability;
      return;
    }
    const std::vector<Some> children = domains.split(some, level);
    const auto sum_at = [&](std::size_t each) {
      std::size_t sum = 0;
      for (const auto& child : children) sum += std::min(each, child.size());
      return sum;
    };
    std::size_t each = 0;
    while (sum_at(each + 1) <= count && sum_at(each + 1) > sum_at(each)) ++each;
    std::vector<double> weights;
    for (const auto& child : children) {
      weights.push_back(child.size() > each ? weight_of(child) : 0);
    }
    const std::vector<double> extra =
        fill_up_to_one(weights, static_cast<double>(count) - static_cast<double>(sum_at(each)));
    for (std::size_t index = 0; index < children.size(); ++index) {
      const Some& child = children[index];
      const std::size_t sure = std::min(each, child.size());
      if (extra[index] < 1) run(child, level + 1, sure, probability * (1 - extra[index]));
      if (extra[index] > 0) run(child, level + 1, sure + 1, probability * extra[index]);
    }
  }
};

std::vector<double> FailureDomains::shares(const std::vector<RingMember>& members,
                                           std::size_t replica_count) const {
  AGRO_ASSERT(members.size() == domains_.size());
  Spread spread{*this, members, std::vector<double>(members.size(), 0)};
  Some all(members.size());
  std::iota(all.begin(), all.end(), std::uint16_t{0});
  spread.run(all, 0, std::min(replica_count, members.size()), 1);
  return spread.shares;
}

}  // namespace agro
