// Manual pages, made from the command tree of a program: the same text as its --help.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace agro {

/// A page of section 8, in man(7)'s macros.
std::string man_page(const CLI::App& app);

}  // namespace agro
