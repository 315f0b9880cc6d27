#include "metadata/etcd/etcd_testing.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace agro {
namespace {

/// A port that was free a moment ago.
std::uint16_t free_port() {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = ::bind(descriptor, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (!bound) ADD_FAILURE() << "no free port";
  ::close(descriptor);
  return ntohs(address.sin_port);
}

}  // namespace

void ChildProcess::start(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::dup2(output, 1);
  ::dup2(output, 2);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

void ChildProcess::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = 0;
}

void ChildProcess::signal(int number) const {
  ::kill(pid_, number);
  siginfo_t stopped{};
  if (number == SIGSTOP) ::waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED | WNOWAIT);
}

EtcdServer::EtcdServer(EtcdServerOptions options)
    : directory_("/dev/shm"), options_(std::move(options)) {
  for (unsigned index = 0; index < options_.member_count; ++index) {
    members_.push_back(std::make_unique<Member>());
    members_.back()->name = fmt::format("m{}", index);
    members_.back()->client_port = free_port();
    members_.back()->peer_port = free_port();
  }
  for (unsigned index = 0; index < options_.member_count; ++index) start(index);
}

EtcdServer::~EtcdServer() {
  if (!::testing::Test::HasFailure()) return;
  for (const auto& member : members_) {
    std::ifstream log(path(member->name + ".log"));
    std::string line;
    std::vector<std::string> lines;
    while (std::getline(log, line)) lines.push_back(line);
    const std::size_t first = lines.size() > 15 ? lines.size() - 15 : 0;
    for (std::size_t index = first; index < lines.size(); ++index) {
      std::fprintf(stderr, "%s: %s\n", member->name.c_str(), lines[index].c_str());
    }
  }
}

std::vector<std::string> EtcdServer::endpoints() const {
  std::vector<std::string> all;
  for (const auto& member : members_) all.push_back(fmt::format("127.0.0.1:{}", member->client_port));
  return all;
}

void EtcdServer::start(unsigned index) {
  Member& member = *members_[index];
  std::string cluster;
  for (const auto& other : members_) {
    cluster += fmt::format("{}{}=http://127.0.0.1:{}", cluster.empty() ? "" : ",", other->name,
                           other->peer_port);
  }
  const std::string client = fmt::format("{}://127.0.0.1:{}", options_.scheme, member.client_port);
  const std::string peer = fmt::format("http://127.0.0.1:{}", member.peer_port);
  std::vector<std::string> arguments = {"etcd", "--name", member.name,
                                        "--data-dir", path(member.name),
                                        "--listen-client-urls", client,
                                        "--advertise-client-urls", client,
                                        "--listen-peer-urls", peer,
                                        "--initial-advertise-peer-urls", peer,
                                        "--initial-cluster", cluster,
                                        "--logger", "zap"};
  arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
  member.process.start(arguments, path(member.name + ".log"));
}

bool EtcdServer::try_etcdctl(const std::string& arguments, std::string& output, unsigned member) {
  const std::string command =
      fmt::format("ETCDCTL_API=3 etcdctl --endpoints {}://{} {} 2>&1", options_.scheme,
                  endpoints()[member], arguments);
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return false;
  output.clear();
  char chunk[512];
  while (std::fgets(chunk, sizeof chunk, pipe) != nullptr) output += chunk;
  return ::pclose(pipe) == 0;
}

std::string EtcdServer::etcdctl(const std::string& arguments, unsigned member) {
  std::string output;
  if (!try_etcdctl(arguments, output, member)) ADD_FAILURE() << arguments << ": " << output;
  return output;
}

unsigned EtcdServer::leader() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    for (unsigned index = 0; index < member_count(); ++index) {
      std::string output;
      if (members_[index]->process.pid() == 0) continue;
      if (!try_etcdctl("endpoint status -w fields", output, index)) continue;
      const auto field = [&](std::string_view name) -> std::string {
        const std::size_t at = output.find(fmt::format("\"{}\" : ", name));
        if (at == std::string::npos) return "";
        const std::size_t start = at + name.size() + 5;
        return output.substr(start, output.find('\n', start) - start);
      };
      if (field("Leader") == field("MemberID") && field("Leader") != "0") return index;
    }
  }
  ADD_FAILURE() << "no member leads";
  return 0;
}

EtcdOptions etcd_options(const EtcdServer& server) {
  EtcdOptions options;
  options.endpoints = server.endpoints();
  options.prefix = "/test";
  options.call_timeout = std::chrono::seconds(15);
  options.page_count = 7;  // so that lists have pages
  return options;
}

}  // namespace agro
