#include "internal/nbd/test_certificates.hpp"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "base/assert.hpp"

namespace agro::nbd {
namespace {

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

Key make_key() { return {EVP_EC_gen("P-256"), EVP_PKEY_free}; }

/// Shape: `issuer` none: signed by itself.
Certificate make_certificate(const char* name, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key) {
  Certificate made(X509_new(), X509_free);
  X509_set_version(made.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), issuer == nullptr ? 1 : 2);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 24 * 3600);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
  X509_set_issuer_name(made.get(), X509_get_subject_name(issuer == nullptr ? made.get() : issuer));
  X509_set_pubkey(made.get(), key);
  if (issuer == nullptr) {
    X509_EXTENSION* authority = X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE");
    AGRO_ASSERT(authority != nullptr);
    X509_add_ext(made.get(), authority, -1);
    X509_EXTENSION_free(authority);
  }
  AGRO_ASSERT(X509_sign(made.get(), issuer_key, EVP_sha256()) > 0);
  return made;
}

void save(const std::string& path, X509* certificate, EVP_PKEY* key) {
  FILE* file = std::fopen(path.c_str(), "w");
  AGRO_ASSERT(file != nullptr);
  const int saved = certificate != nullptr ? PEM_write_X509(file, certificate)
                                           : PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  AGRO_ASSERT(saved == 1);
  AGRO_ASSERT(std::fclose(file) == 0);
}

}  // namespace

TestCertificates::TestCertificates() {
  folder_ = (std::filesystem::temp_directory_path() / "agro-certificates-XXXXXX").string();
  AGRO_ASSERT(mkdtemp(folder_.data()) != nullptr);
  const Key authority_key = make_key();
  const Certificate authority = make_certificate("agro test authority", authority_key.get(), nullptr, authority_key.get());
  save(folder_ + "/ca-cert.pem", authority.get(), nullptr);
  for (const char* name : {"server", "client"}) {
    const Key key = make_key();
    const Certificate made = make_certificate(name, key.get(), authority.get(), authority_key.get());
    save(folder_ + "/" + name + "-cert.pem", made.get(), nullptr);
    save(folder_ + "/" + name + "-key.pem", nullptr, key.get());
  }
}

TestCertificates::~TestCertificates() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace agro::nbd
