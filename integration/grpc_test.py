"""Three peers that speak gRPC only (one of them ADP too) and a client: what is written is read back, also
after one peer was killed; nothing went by ADP that could not. Usage: grpc_test.py BIN_DIR"""
import os
import subprocess
import sys

import agro_testlib as lib
from agro_testlib import MIB, connect, http_get, parse_metrics, run, step, wait_for


def main():
    bin_dir, scratch = sys.argv[1], lib.scratch_dir()
    uri = f"sqlite:{scratch}/meta.db"

    def agroctl(*args):
        return run([f"{bin_dir}/agroctl", "-C", uri, *args]).stdout

    step("three peers over gRPC")
    agroctl("init", "--replication", "2")
    peers = []
    for number in range(3):
        addresses = ["--peer-address", ["grpc://127.0.0.1:0", f"grpc+unix:{scratch}/g1.sock", "grpc://127.0.0.1:0"][number]]
        if number == 2:
            addresses += ["--peer-address", f"adp+unix:{scratch}/a2.sock"]
        peers.append(lib.Process(
            [f"{bin_dir}/agro", "-C", uri, "--data-dir", f"{scratch}/p{number}", "--size", "1GiB", *addresses,
             "--http", f"unix:{scratch}/h{number}.sock", "--auto-join"], f"{scratch}/p{number}.log"))
        wait_for(f"peer {number} is ready", lambda n=number: os.path.exists(f"{scratch}/h{n}.sock")
                 and http_get(f"{scratch}/h{n}.sock", "/readyz").startswith("HTTP/1.1 200 "))
    listed = agroctl("peer", "list")
    assert "grpc://127.0.0.1:" in listed and "grpc+unix:" in listed and "adp+unix:" in listed, listed
    wait_for("the cluster is healthy", lambda: subprocess.run(
        [f"{bin_dir}/agroctl", "-C", uri, "status"], capture_output=True).returncode == 0)
    agroctl("volume", "create-block", "v", "64MiB")
    client = lib.Process([f"{bin_dir}/agroblock", "-C", uri, "nbdserve", "-l", f"unix:{scratch}/nbd.sock",
                          "--http", f"unix:{scratch}/hc.sock", "v"], f"{scratch}/client.log")
    wait_for("the client serves", lambda: os.path.exists(f"{scratch}/hc.sock"))
    disk = connect(f"{scratch}/nbd.sock", "v")
    content = os.urandom(32 * MIB)
    for begin in range(0, len(content), MIB):
        disk.pwrite(content[begin:begin + MIB], begin)
    disk.flush()

    step("one is killed; writes and reads go on")
    peers[0].kill()
    second = os.urandom(4 * MIB)
    disk.pwrite(second, 8 * MIB)
    disk.flush()
    content = content[:8 * MIB] + second + content[12 * MIB:]
    for begin in range(0, len(content), MIB):
        assert disk.pread(MIB, begin) == content[begin:begin + MIB], begin
    requests = [parse_metrics(http_get(f"{scratch}/h{number}.sock")) for number in (1, 2)]
    assert requests[0]["agro_grpc_requests_total"] > 8 and "agro_adp_requests_total" not in requests[0]
    assert requests[1]["agro_adp_requests_total"] > 8, "the client did not prefer ADP"
    disk.shutdown()

    step("everything stops cleanly")
    assert client.terminate() == 0, client.log()[-2000:]
    for peer in peers[1:]:
        assert peer.terminate() == 0, peer.log()[-2000:]
    step("done")


main()
