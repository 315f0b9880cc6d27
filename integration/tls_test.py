#!/usr/bin/python3
"""TLS on NBD: real clients with and without certificates, against agro standalone and agroblock nbdserve.

Certificates are made with openssl, as docs/admin-guide.md says. Usage: tls_test.py BIN_DIR
"""
import os
import socket
import subprocess
import sys

from agro_testlib import Standalone, need_tools, run, scratch_dir


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificates(folder, name="agro test"):
    os.makedirs(folder)

    def openssl(*args):
        run(["openssl", *args], cwd=folder)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", "ca-key.pem", "-out", "ca-cert.pem")
    for who, usage in (("server", "serverAuth"), ("client", "clientAuth")):
        with open(f"{folder}/{who}.ext", "w") as file:
            file.write(f"subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\nkeyUsage=digitalSignature\n")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={who}",
                "-keyout", f"{who}-key.pem", "-out", f"{who}.csr")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2",
                "-extfile", f"{who}.ext", "-out", f"{who}-cert.pem")


def outcome(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def qemu(folder, port, *more):
    return outcome("qemu-io", "--object", f"tls-creds-x509,id=tls0,endpoint=client,dir={folder}", "--image-opts",
                   f"driver=nbd,host=localhost,port={port},export=v,tls-creds=tls0", *more)


def check_clients(port, ours, theirs, only_server, verified):
    uri = f"nbds://localhost:{port}/v?tls-certificates={ours}"
    assert run(["nbdinfo", "--size", uri]).stdout.strip() == str(64 << 20)
    data = os.urandom(8 << 20)
    with open(f"{ours}/data", "wb") as file:
        file.write(data)
    run(["nbdcopy", "--flush", f"{ours}/data", uri])
    run(["nbdcopy", uri, f"{ours}/back"])
    with open(f"{ours}/back", "rb") as file:
        assert file.read(len(data)) == data
    status, text = qemu(ours, port, "-c", "write -P 7 32M 1M", "-c", "flush", "-c", "read -P 7 32M 1M")
    assert status == 0 and "failed" not in text, text

    status, text = outcome("nbdinfo", f"nbd://localhost:{port}/v")
    assert status != 0 and "TLS" in text, text
    status, text = outcome("nbdinfo", "--list", f"nbd://localhost:{port}")
    assert status != 0, text
    status, text = outcome("nbdinfo", f"nbds://localhost:{port}/v?tls-certificates={theirs}")
    assert status != 0, "a server that an unknown authority signed was believed: " + text
    status, text = qemu(only_server, port, "-c", "read 0 4k")
    assert (status != 0) == verified, text


def check_files(bin_dir, folder):
    """A folder without what is needed is said at the start, by the file's name."""
    status, text = outcome(f"{bin_dir}/agro", "standalone", "--data-dir", f"{folder}/none", "--tls-certificates", f"{folder}/nowhere")
    assert status == 1 and f"{folder}/nowhere/server-cert.pem" in text, text
    status, text = outcome(f"{bin_dir}/agro", "standalone", "--data-dir", f"{folder}/none", "--tls-verify-peer")
    assert status != 0 and "--tls-certificates" in text, text


def main():
    bin_dir = sys.argv[1]
    need_tools("openssl", "nbdinfo", "nbdcopy", "qemu-io")
    folder = scratch_dir()
    ours, theirs, only_server = f"{folder}/ours", f"{folder}/theirs", f"{folder}/only-ca"
    make_certificates(ours)
    make_certificates(theirs, "somebody else")
    os.makedirs(only_server)
    run(["cp", f"{ours}/ca-cert.pem", only_server])
    check_files(bin_dir, folder)
    for verified in (False, True):
        port = free_port()
        server = Standalone(bin_dir, f"{folder}/cluster-{verified}", "--size", "1GiB", "--nbd", f"tcp:127.0.0.1:{port}",
                            "--create-volume", "v=64MiB", "--tls-certificates", ours, *(["--tls-verify-peer"] if verified else []))
        check_clients(port, ours, theirs, only_server, verified)
        server.stop()
    print("ok")


if __name__ == "__main__":
    main()
