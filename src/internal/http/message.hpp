// HTTP/1.1 messages: bytes to a request, an answer to bytes. Boost.Beast is behind it, in the .cpp.
//
// Invariants: a request's header is at most 8 KiB and its body, which nobody reads, at most 4 KiB;
// whatever else comes is a problem with the status that tells the client so.
#pragma once

#include <memory>
#include <string>

#include "base/bytes.hpp"

namespace agro::http {

struct Request {
  std::string method;
  std::string path;  // without the query
  bool keep_alive = false;
};

struct Response {
  unsigned status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

/// Parses requests of one connection, one after another.
class RequestParser {
 public:
  enum class State : std::uint8_t { needs_more, complete, broken };

  RequestParser();
  ~RequestParser();
  RequestParser(const RequestParser&) = delete;
  RequestParser& operator=(const RequestParser&) = delete;

  /// Takes more bytes (none: tries what was left of the last ones).
  State feed(ConstBytes bytes);
  /// Whether bytes of a request have come.
  bool has_begun() const { return !input_.empty(); }
  /// Shape: after complete, once; feed() then goes on with the next request.
  Request take();
  /// What to tell the client. Shape: after broken.
  const Response& problem() const { return problem_; }

 private:
  struct Parser;
  std::string input_;  // not parsed yet, or part of the request that is
  std::unique_ptr<Parser> parser_;
  Response problem_;
};

/// As it is sent; without the body, but with its length, in answer to HEAD.
std::string format_response(const Response& response, bool keep_alive, bool head);

}  // namespace agro::http
