#include "errors.hpp"

#include <charconv>
#include <cstdint>
#include <string_view>

#include <c10/util/Exception.h>

namespace rmpi {

void throw_error(bridge::ErrorKind kind, const std::string& message) {
  switch (kind) {
    case bridge::ErrorKind::Value:
      C10_THROW_ERROR(ValueError, message);
    case bridge::ErrorKind::Type:
      C10_THROW_ERROR(TypeError, message);
    case bridge::ErrorKind::NotImplemented:
      C10_THROW_ERROR(NotImplementedError, message);
    default:
      C10_THROW_ERROR(DistBackendError, message);
  }
}

std::exception_ptr make_error(bridge::ErrorKind kind, const std::string& message) {
  try {
    throw_error(kind, message);
  } catch (...) {
    return std::current_exception();
  }
}

void throw_core_error(const rust::Error& error) {
  const std::string_view text(error.what());
  std::uint8_t kind = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), kind);
  const auto separator = static_cast<std::size_t>(end - text.data());
  if (status == std::errc() && separator < text.size() && text[separator] == '|') {
    throw_error(static_cast<bridge::ErrorKind>(kind), std::string(text.substr(separator + 1)));
  }
  // A text without a kind is not an error value of the core: cxx made it of a panic.
  throw_error(bridge::ErrorKind::Backend, std::string(text));
}

}  // namespace rmpi
