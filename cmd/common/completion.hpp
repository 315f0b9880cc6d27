// Completion scripts for bash, zsh and fish, made from the command tree of a program itself.
//
// Each script finds the command that is being typed by following the words through the tree, and
// then offers that command's subcommands and options; where there is nothing to offer, file names.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

namespace agro {

/// Shape: `shell` is bash, zsh or fish.
std::string completion_script(const CLI::App& app, std::string_view shell);

}  // namespace agro
