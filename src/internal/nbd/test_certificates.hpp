// Certificates for tests, made on the spot: a folder with an authority, a server's and a client's.
#pragma once

#include <string>

namespace agro::nbd {

/// A folder that goes when it goes: ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem, client-key.pem.
class TestCertificates {
 public:
  TestCertificates();
  TestCertificates(const TestCertificates&) = delete;
  TestCertificates& operator=(const TestCertificates&) = delete;
  ~TestCertificates();
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
};

}  // namespace agro::nbd
