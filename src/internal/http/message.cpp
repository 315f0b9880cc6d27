#include "internal/http/message.hpp"

#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <optional>
#include <sstream>

namespace agro::http {
namespace {

namespace beast = boost::beast::http;

constexpr std::uint32_t kHeaderSizeMax = 8192;
constexpr std::uint64_t kBodySizeMax = 4096;

unsigned status_for(const boost::system::error_code& problem) {
  if (problem == beast::error::header_limit) return 431;
  if (problem == beast::error::body_limit) return 413;
  if (problem == beast::error::bad_version) return 505;
  return 400;
}

}  // namespace

struct RequestParser::Parser {
  Parser() { restart(); }
  void restart() {
    beast_parser.emplace();
    beast_parser->header_limit(kHeaderSizeMax);
    beast_parser->body_limit(kBodySizeMax);
    beast_parser->eager(false);  // the header first: we look at it before the body is parsed
  }
  std::optional<beast::request_parser<beast::string_body>> beast_parser;
};

RequestParser::RequestParser() : parser_(std::make_unique<Parser>()) {}
RequestParser::~RequestParser() = default;

RequestParser::State RequestParser::feed(ConstBytes bytes) {
  input_.append(as_text(bytes));
  auto& parser = *parser_->beast_parser;
  while (!input_.empty() && !parser.is_done()) {
    boost::system::error_code problem;
    const std::size_t used = parser.put(boost::asio::buffer(input_), problem);
    input_.erase(0, used);
    if (problem == beast::error::need_more || (!problem && used == 0)) break;
    // Nothing here takes a body worth chunks, and Beast's parser of them fails an assertion on bad ones.
    if (parser.is_header_done() && parser.chunked()) {
      problem_.status = 411;
      problem_.body = "no chunked requests; give a Content-Length\n";
      return State::broken;
    }
    if (problem) {
      problem_.status = status_for(problem);
      problem_.body = problem.message() + "\n";
      return State::broken;
    }
  }
  return parser.is_done() ? State::complete : State::needs_more;
}

Request RequestParser::take() {
  const auto& message = parser_->beast_parser->get();
  Request request;
  request.method = std::string(message.method_string());
  request.path = std::string(message.target());
  request.path.resize(std::min(request.path.find('?'), request.path.size()));
  request.keep_alive = message.keep_alive();
  parser_->restart();
  return request;
}

std::string format_response(const Response& response, bool keep_alive, bool head) {
  beast::response<beast::string_body> message;
  message.result(response.status);
  message.set(beast::field::server, "agro/" AGRO_VERSION);
  message.set(beast::field::content_type, response.content_type);
  message.set(beast::field::cache_control, "no-store");
  if (response.status == 405) message.set(beast::field::allow, "GET, HEAD");
  message.keep_alive(keep_alive);
  message.content_length(response.body.size());
  std::ostringstream out;
  out << message.base();
  return out.str() + (head ? "" : response.body);
}

}  // namespace agro::http
