// Runs a fuzzer without libFuzzer: over the files of its corpus, and over random and mutated inputs
// from a fixed seed, so that every build and compiler exercises it.
//
// fuzz_replay [CORPUS_DIRECTORY]
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  std::vector<std::string> seeds = {""};
  if (argc > 1 && std::filesystem::is_directory(argv[1])) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[1])) {
      std::ifstream file(entry.path(), std::ios::binary);
      seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
  }
  const auto run = [](const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  };
  for (const std::string& seed : seeds) run(seed);
  std::mt19937_64 random(1);
  constexpr int kRounds = 3000;
  for (int round = 0; round < kRounds; ++round) {
    std::string input = seeds[random() % seeds.size()];
    if (input.empty()) input.assign(random() % 512, '\0');
    for (std::uint64_t flips = 1 + random() % 8; flips > 0 && !input.empty(); --flips) {
      input[random() % input.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0 && !input.empty()) input.resize(random() % input.size());
    run(input);
  }
  std::printf("%zu corpus inputs, %d mutations: no crash\n", seeds.size() - 1, kRounds);
  return 0;
}
