#include "common/man_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace agro {
namespace {

/// What roff would take for more than letters.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char letter : text) {
    if (out.empty() && (letter == '.' || letter == '\'')) out += "\\&";
    if (letter == '\\') out += "\\e";
    else if (letter == '-') out += "\\-";
    else if (letter == '\n') out += ' ';
    else out += letter;
  }
  return out;
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
  return text;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* one) { return !one->get_name().empty(); });
}

/// "agroctl volume resize [OPTIONS] name size".
std::string usage(const CLI::App& app, const std::string& path) {
  std::string line = fmt::format(".B {}\n", escaped(path));
  line += "[\\fIOPTIONS\\fR]";
  for (const CLI::Option* option : app.get_options()) {
    if (!option->get_positional()) continue;
    const std::string name = upper(option->get_name(true));
    line += option->get_required() ? fmt::format(" \\fI{}\\fR", escaped(name)) : fmt::format(" [\\fI{}\\fR]", escaped(name));
  }
  if (!commands_of(app).empty()) line += " \\fICOMMAND\\fR";
  return line + "\n";
}

std::string options_of(const CLI::App& app) {
  std::string out;
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_group().empty()) continue;  // hidden
    const std::string name = option->get_positional() && !option->nonpositional() ? upper(option->get_name(true))
                                                                                    : option->get_name(false, true);
    const bool takes_value = option->get_type_size() != 0 && !option->get_type_name().empty() && option->nonpositional();
    const std::string type = option->get_type_name().substr(0, option->get_type_name().find(':'));
    out += fmt::format(".TP\n\\fB{}\\fR{}\n{}\n", escaped(name), takes_value ? " \\fI" + escaped(type) + "\\fR" : "",
                       escaped(option->get_description()));
  }
  return out;
}

void add_commands(const CLI::App& app, const std::string& path, std::string& out) {
  for (const CLI::App* command : commands_of(app)) {
    const std::string name = path + " " + command->get_name();
    out += fmt::format(".SS {}\n{}\n.PP\n{}", escaped(name.substr(name.find(' ') + 1)), escaped(command->get_description()),
                       usage(*command, name));
    out += options_of(*command);
    add_commands(*command, name, out);
  }
}

}  // namespace

std::string man_page(const CLI::App& app) {
  const std::string& name = app.get_name();
  // "agroctl: manages ..." names itself.
  std::string summary = app.get_description();
  if (summary.starts_with(name + ": ")) summary = summary.substr(name.size() + 2);
  std::string first_line = summary.substr(0, summary.find('\n'));
  std::string out = fmt::format(".TH {} 8 \"\" \"agro {}\" \"agro\"\n", upper(name), AGRO_VERSION);
  out += fmt::format(".SH NAME\n{} \\- {}\n", name, escaped(first_line));
  out += ".SH SYNOPSIS\n" + usage(app, name);
  if (summary.size() > first_line.size()) out += fmt::format(".SH DESCRIPTION\n{}\n", escaped(summary));
  out += ".SH OPTIONS\n" + options_of(app);
  if (!commands_of(app).empty()) {
    out += ".SH COMMANDS\n";
    add_commands(app, name, out);
  }
  out += ".SH EXIT STATUS\n0 when all went well, 1 when not; one line on standard error then says what to do.\n";
  return out + ".SH SEE ALSO\n.BR agro (8),\n.BR agroblock (8),\n.BR agroctl (8),\n.BR ringtool (8);\n/usr/share/doc/agro\n";
}

}  // namespace agro
