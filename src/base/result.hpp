// Result, Error and the macros that pass errors up.
//
// What can go wrong outside the program returns a Result; a broken contract is AGRO_ASSERT.
// Errors carry a code for programs and one line of text for people, which says what to do if it can.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace agro {

/// What kind of failure. The numbers travel on the wire (docs/formats/adp.md): append, never renumber.
enum class Errc : std::uint8_t {
  ok = 0,               // never in an Error; the wire's "no error"
  invalid_argument = 1, // the caller's input makes no sense
  not_found = 2,
  already_exists = 3,
  corrupt = 4,          // bytes that do not verify
  out_of_space = 5,
  fenced = 6,           // a newer epoch owns the volume
  locked = 7,           // open elsewhere
  conflict = 8,         // a transaction's condition did not hold
  timed_out = 9,
  unavailable = 10,     // a peer or service cannot be reached now
  no_quorum = 11,       // too few peers to go on safely
  closed = 12,          // the object was closed under the caller
  protocol_error = 13,  // the other side broke the protocol
  io_error = 14,        // the operating system said so
  not_supported = 15,
  cluster_mismatch = 16,// data of another cluster
  too_large = 17,
  outcome_unknown = 18, // the request may or may not have been carried out
  stale_ring = 19,      // the ring has changed: read it again and repeat
};

/// The name of a code, as in "out_of_space". Never fails: an unknown number is "unknown".
std::string_view errc_name(Errc code);

/// A failure: its kind, and one line for people without a final full stop.
struct Error {
  Errc code = Errc::io_error;
  std::string message;

  /// "message (code)".
  std::string to_string() const;
};

/// A value or an Error. Dropping one is a compiler warning, which is an error here.
template <class T = void>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
  Errc code() const { return this->has_value() ? Errc::ok : this->error().code; }
};

/// Makes the failure side of any Result.
inline tl::unexpected<Error> fail(Errc code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}
inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

/// Puts "context: " before an error's text, for the way up.
inline Error with_context(Error error, std::string_view context) {
  error.message = std::string(context) + ": " + error.message;
  return error;
}

/// An Error of `code` with errno's text: "context: No space left on device".
/// ENOSPC becomes out_of_space and ENOENT not_found whatever `code` says.
Error errno_error(std::string_view context, int errno_value, Errc code = Errc::io_error);

}  // namespace agro

#define AGRO_CONCAT_INNER(a, b) a##b
#define AGRO_CONCAT(a, b) AGRO_CONCAT_INNER(a, b)

/// `AGRO_TRY(auto x, f());` defines x from f()'s value or returns f()'s error from this function.
#define AGRO_TRY(declaration, ...) AGRO_TRY_IMPL(AGRO_CONCAT(agro_try_, __LINE__), return, declaration, __VA_ARGS__)
/// `AGRO_TRY_OK(f());` returns f()'s error from this function, if any.
#define AGRO_TRY_OK(...) AGRO_TRY_OK_IMPL(AGRO_CONCAT(agro_try_, __LINE__), return, __VA_ARGS__)
/// The same in a coroutine; the expression usually starts with co_await.
#define AGRO_CO_TRY(declaration, ...) AGRO_TRY_IMPL(AGRO_CONCAT(agro_try_, __LINE__), co_return, declaration, __VA_ARGS__)
#define AGRO_CO_TRY_OK(...) AGRO_TRY_OK_IMPL(AGRO_CONCAT(agro_try_, __LINE__), co_return, __VA_ARGS__)

#define AGRO_TRY_IMPL(name, give_back, declaration, ...)              \
  auto name = (__VA_ARGS__);                                          \
  if (!name.has_value()) give_back ::agro::fail(std::move(name).error()); \
  declaration = std::move(name).value()
// A whole statement, so that `if (a) AGRO_TRY_OK(f()); else g();` means what it says.
#define AGRO_TRY_OK_IMPL(name, give_back, ...)                                                        \
  do {                                                                                                \
    if (auto name = (__VA_ARGS__); !name.has_value()) give_back ::agro::fail(std::move(name).error()); \
  } while (false)
