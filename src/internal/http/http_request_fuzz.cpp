// Whatever bytes come, however cut, the parser ends in one of its states.
#include <algorithm>
#include <cstdlib>

#include "internal/http/message.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::size_t step = std::size_t{data[0]} + 1;
  const agro::ConstBytes bytes = std::as_bytes(std::span(data + 1, size - 1));
  agro::http::RequestParser parser;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    using State = agro::http::RequestParser::State;
    State state = parser.feed(bytes.subspan(at, std::min(step, bytes.size() - at)));
    while (state == State::complete) {
      const agro::http::Request request = parser.take();
      if (request.path.find('?') != std::string::npos) std::abort();
      state = parser.feed({});
    }
    if (state == State::broken) {
      if (parser.problem().status < 400) std::abort();
      return 0;
    }
  }
  return 0;
}
