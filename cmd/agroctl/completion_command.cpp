// agroctl completion: for shells that have no completion installed: source <(agroctl completion bash).
#include "agroctl/program.hpp"
#include "common/completion.hpp"

namespace agro {

void add_completion_command(CLI::App& app, Program& program) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = add_command(app, "completion", "print the completion script of a shell");
  command->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->final_callback([&app, &program, shell] {
    program.immediate_action = [&app, shell] { return print(completion_script(app, *shell)); };
  });
}

}  // namespace agro
