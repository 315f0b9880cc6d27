#include "common/completion.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>


namespace agro {
namespace {

/// One thing that can be typed next.
struct Word {
  std::string text;
  std::string help;
};

/// One command: "agroctl volume list", with what may follow it.
struct Node {
  std::string path;
  std::vector<Word> words;
};

void add_options_of(const CLI::App& app, std::vector<Word>& words) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      words.push_back({"--" + name, option->get_description()});
    }
    for (const std::string& name : option->get_snames()) {
      words.push_back({"-" + name, option->get_description()});
    }
  }
}

void collect(const CLI::App& app, const std::string& path, std::vector<Node>& nodes) {
  Node node{path, {}};
  const auto subcommands = app.get_subcommands([](const CLI::App*) { return true; });
  for (const CLI::App* one : subcommands) {
    node.words.push_back({one->get_name(), one->get_description()});
  }
  // Options of the commands above are understood too.
  for (const CLI::App* level = &app; level != nullptr; level = level->get_parent()) {
    add_options_of(*level, node.words);
  }
  std::vector<Word> unique;
  for (Word& word : node.words) {
    const bool seen = std::any_of(unique.begin(), unique.end(),
                                  [&](const Word& other) { return other.text == word.text; });
    if (!seen) unique.push_back(std::move(word));
  }
  node.words = std::move(unique);
  nodes.push_back(std::move(node));
  for (const CLI::App* one : subcommands) collect(*one, path + " " + one->get_name(), nodes);
}

/// In single quotes, for every one of the shells.
std::string quoted(std::string text, std::string_view quote_inside) {
  std::string out = "'";
  for (const char letter : text) {
    if (letter == '\'')
      out += quote_inside;
    else
      out += letter;
  }
  return out + "'";
}

/// The function that bash and zsh share: sets `command_path` from the words before the cursor.
std::string path_function(const std::string& program, const std::vector<Node>& nodes) {
  std::string out =
      "_@PROGRAM@_path() {\n  command_path=@PROGRAM@\n  local word\n  for word in \"$@\"; do\n";
  out += "    case \"$command_path $word\" in\n";
  for (const Node& node : nodes) {
    if (node.path == program) continue;
    out +=
        fmt::format("      {}) command_path=\"$command_path $word\" ;;\n", quoted(node.path, ""));
  }
  return out + "    esac\n  done\n}\n";
}

std::string bash_script(const std::string& program, const std::vector<Node>& nodes) {
  std::string out = "# bash completion of @PROGRAM@\n";
  out += path_function(program, nodes);
  out += "_@PROGRAM@() {\n  local command_path words=''\n";
  out += "  _@PROGRAM@_path \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"\n  case \"$command_path\" in\n";
  for (const Node& node : nodes) {
    std::string words;
    for (const Word& word : node.words) words += (words.empty() ? "" : " ") + word.text;
    out += fmt::format("    {}) words={} ;;\n", quoted(node.path, ""), quoted(words, ""));
  }
  out += "  esac\n  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\n";
  return out + "complete -o default -F _@PROGRAM@ @PROGRAM@\n";
}

std::string zsh_script(const std::string& program, const std::vector<Node>& nodes) {
  std::string out =
      "#compdef @PROGRAM@\n# zsh completion of @PROGRAM@\n";
  out += path_function(program, nodes);
  out += "_@PROGRAM@() {\n  local command_path\n  local -a candidates\n";
  out += "  _@PROGRAM@_path \"${(@)words[2,CURRENT-1]}\"\n  case \"$command_path\" in\n";
  for (const Node& node : nodes) {
    out += fmt::format("    {}) candidates=(", quoted(node.path, ""));
    for (const Word& word : node.words) {
      std::string help = word.help;
      std::replace(help.begin(), help.end(), ':', ' ');  // it separates word and help
      out += "\n      " + quoted(word.text + ":" + help, "'\\''");
    }
    out += ") ;;\n";
  }
  out += "  esac\n  _describe @PROGRAM@ candidates || _files\n}\n";
  return out + "compdef _@PROGRAM@ @PROGRAM@\n";
}

std::string fish_script(const std::string& program, const std::vector<Node>& nodes) {
  std::string out = "# fish completion of @PROGRAM@\n";
  out += "function __@PROGRAM@_at\n  set -l path @PROGRAM@\n";
  out += "  for word in (commandline -opc)[2..-1]\n    switch \"$path $word\"\n      case";
  for (const Node& node : nodes) {
    if (node.path != program) out += " " + quoted(node.path, "");
  }
  out += "\n        set path \"$path $word\"\n    end\n  end\n  test \"$path\" = \"$argv\"\nend\n";
  for (const Node& node : nodes) {
    for (const Word& word : node.words) {
      out += fmt::format("complete -c @PROGRAM@ -n {} -a {} -d {}\n",
                         quoted("__@PROGRAM@_at " + node.path, ""), quoted(word.text, ""),
                         quoted(word.help, "\\'"));
    }
  }
  return out;
}

}  // namespace

std::string completion_script(const CLI::App& app, std::string_view shell) {
  const std::string program = app.get_name();
  std::vector<Node> nodes;
  collect(app, program, nodes);
  std::string script = shell == "bash"  ? bash_script(program, nodes)
                       : shell == "zsh" ? zsh_script(program, nodes)
                                        : fish_script(program, nodes);
  constexpr std::string_view kPlaceholder = "@PROGRAM@";
  for (std::size_t at = script.find(kPlaceholder); at != std::string::npos; at = script.find(kPlaceholder, at)) {
    script.replace(at, kPlaceholder.size(), program);
  }
  return script;
}

}  // namespace agro
