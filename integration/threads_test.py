#!/usr/bin/python3
"""`agroblock nbdserve --threads 3`: five volumes on three loops, used at once by real clients through one socket.

Each loop must have worked, the metrics be those of all, a snapshot be found where its volume is, and a stop under load be clean.
Usage: threads_test.py BIN_DIR
"""
import json
import os
import subprocess
import sys

from agro_cluster import Cluster
from agro_testlib import http_get, need_tools, parse_metrics, run, scratch_dir, step, wait_for

VOLUMES = [f"v{number}" for number in range(5)]
SIZE = 64 << 20


def fio(cluster, volume, *more):
    return subprocess.Popen(
        ["fio", "--name", volume, "--ioengine=nbd", f"--uri={cluster.uri(volume)}", "--rw=randrw", "--bs=4k", "--iodepth=8",
         "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--output-format=json", f"--size={SIZE}", *more],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def loops(pid):
    """Processor time of each loop, in ticks: the main thread's and those that are named."""
    times = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat") as file:
            name, fields = file.read().split("(", 1)[1].rsplit(")", 1)
        if name.startswith("agro-loop-") or task == str(pid):
            times[name] = sum(int(field) for field in fields.split()[11:13])
    return times


def metric(metrics, name):
    return sum(value for key, value in metrics.items() if key.split("{")[0] == name)


def check_all_at_once(cluster):
    step("all volumes at once")
    clients = [fio(cluster, volume, "--io_size=8m") for volume in VOLUMES]
    written = 0
    for volume, client in zip(VOLUMES, clients):
        output, _ = client.communicate(timeout=120)
        assert client.returncode == 0, f"{volume}: {output}"
        written += json.loads(output[output.index("{"):])["jobs"][0]["write"]["io_bytes"]
    times = loops(cluster.client.popen.pid)
    assert set(times) == {"agroblock", "agro-loop-1", "agro-loop-2"}, times
    assert all(time > 0 for time in times.values()), times
    metrics = parse_metrics(http_get(cluster.metrics_socket))
    assert metric(metrics, "agro_volume_written_bytes_total") == written, metric(metrics, "agro_volume_written_bytes_total")
    connections = metric(metrics, "agro_nbd_connections_total")  # fio looks first, then it works
    assert connections >= len(VOLUMES), connections
    wait_for("the clients are gone",
             lambda: metric(parse_metrics(http_get(cluster.metrics_socket)), "agro_nbd_connections") == 0)


def check_attached(cluster):
    step("what is attached, from all loops")
    connections = [cluster.connect(volume) for volume in VOLUMES]
    said = json.loads(http_get(cluster.metrics_socket, "/api/v1/volumes").partition("\r\n\r\n")[2])
    assert [one["name"] for one in said["attached_here"]] == VOLUMES, said["attached_here"]
    assert metric(parse_metrics(http_get(cluster.metrics_socket)), "agro_volumes_attached") == len(VOLUMES)
    for connection in connections:
        connection.shutdown()


def check_snapshots(cluster):
    step("snapshots and a volume made a moment ago")
    for volume in VOLUMES[:3]:
        connection = cluster.connect(volume)
        connection.pwrite(b"before" * 100, 0)
        connection.flush()
        cluster.agroctl("block", "snapshot", "create", f"{volume}@s")
        connection.pwrite(b"behind" * 100, 0)
        snapshot = cluster.connect(f"{volume}@s")
        assert snapshot.pread(600, 0) == b"before" * 100
        assert connection.pread(600, 0) == b"behind" * 100
        snapshot.shutdown()
        connection.shutdown()
    for number in range(3):
        cluster.create_volume(f"new{number}", "64MiB")
        connection = cluster.connect(f"new{number}")
        assert connection.get_size() == SIZE
        connection.shutdown()


def check_stop_under_load(cluster):
    step("a stop under load")
    clients = [fio(cluster, volume, "--time_based", "--runtime=60") for volume in VOLUMES]
    before = metric(parse_metrics(http_get(cluster.metrics_socket)), "agro_volume_written_bytes_total")
    wait_for("they write", lambda: metric(parse_metrics(http_get(cluster.metrics_socket)),
                                          "agro_volume_written_bytes_total") > before + (4 << 20), timeout=60)
    status = cluster.client.terminate()
    assert status == 0, f"{status}: {cluster.client.log()[-2000:]}"
    for client in clients:
        client.communicate(timeout=60)
        assert client.returncode != 0
    cluster.start_client()
    wait_for("it serves again", lambda: os.path.exists(cluster.nbd_socket))
    for volume in VOLUMES:
        connection = cluster.connect(volume)
        connection.pread(4096, 0)
        connection.shutdown()


def main():
    need_tools("fio")
    cluster = Cluster(sys.argv[1], f"{scratch_dir()}/c", client_options=["--threads", "3"])
    cluster.start()
    for volume in VOLUMES:
        cluster.create_volume(volume, str(SIZE))
    check_all_at_once(cluster)
    check_attached(cluster)
    check_snapshots(cluster)
    check_stop_under_load(cluster)
    cluster.stop()
    refused = run([f"{sys.argv[1]}/agroblock", "nbdserve", "--threads", "0"], check=False)
    assert refused.returncode == 1 and "threads" in refused.stderr, refused.stderr


if __name__ == "__main__":
    main()
