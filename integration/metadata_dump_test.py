#!/usr/bin/env python3
# Goal: a cluster whose metadata was lost comes back from a dump, with its data; also into etcd.
# Method: a standalone server with data written over NBD; its meta.db is dumped, wiped, deleted and
# restored. Then the dump goes to a real etcd of our own and from there into a file again.
# Usage: metadata_dump_test.py BIN_DIR
import json
import os
import random
import socket
import sys

from agro_testlib import MIB, Process, Standalone, need_tools, run, scratch_dir, step, wait_for

BIN = os.path.abspath(sys.argv[1])


def agroctl(uri, *args, check=True):
    return run([os.path.join(BIN, "agroctl"), "-C", uri, *args], check=check)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def entries(path):
    with open(path) as dump:
        return json.load(dump)["entries"]


def refuse(uri, *args):
    done = agroctl(uri, *args, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    return done.stderr


def main():
    need_tools("etcd")
    directory = scratch_dir()
    data_dir = os.path.join(directory, "data")
    store = os.path.join(data_dir, "meta.db")
    dump = os.path.join(directory, "dump.json")
    uri = f"sqlite:{store}"
    data = random.Random(1).randbytes(4 * MIB)

    step("write")
    server = Standalone(BIN, data_dir, "--size", "1GiB", "--create-volume", "demo=1GiB")
    disk = server.connect("demo")
    disk.pwrite(data, 10 * MIB)
    disk.flush()
    disk.shutdown()
    server.stop()

    step("dump, wipe, restore")
    agroctl(uri, "metadata", "dump", dump)
    assert agroctl(uri, "metadata", "dump").stdout.count("volumes/") == 1
    assert "not empty" in refuse(uri, "metadata", "restore", dump)
    agroctl(uri, "wipe", "--yes-i-am-sure", "--force")
    for leftover in (store, store + "-wal", store + "-shm"):
        if os.path.exists(leftover):
            os.unlink(leftover)
    agroctl(uri, "metadata", "restore", dump)

    step("read")
    server = Standalone(BIN, data_dir)
    disk = server.connect("demo")
    assert disk.pread(len(data), 10 * MIB) == data
    disk.shutdown()
    assert "stop them" in refuse(uri, "metadata", "restore", dump, "--force")
    server.stop()

    step("through etcd")
    client, peer = free_port(), free_port()
    etcd = Process(["etcd", "--data-dir", f"{directory}/etcd", "--logger", "zap",
                    "--listen-client-urls", f"http://127.0.0.1:{client}",
                    "--advertise-client-urls", f"http://127.0.0.1:{client}",
                    "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                    "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                    "--initial-cluster", f"default=http://127.0.0.1:{peer}"], f"{directory}/etcd.log")
    at_etcd = f"etcd://127.0.0.1:{client}/restored"
    wait_for("etcd answers", lambda: "no cluster" in agroctl(at_etcd, "status", check=False).stderr)
    agroctl(at_etcd, "metadata", "restore", dump)
    agroctl(at_etcd, "metadata", "dump", dump + ".2")
    assert entries(dump) == entries(dump + ".2")
    assert "demo" in agroctl(at_etcd, "volume", "list").stdout
    etcd.kill()

    step("a damaged dump")
    with open(dump) as good, open(dump + ".bad", "w") as bad:
        bad.write(good.read().replace("demo", "dema").replace("64656d6f", "64656d61"))
    assert "damaged" in refuse(uri, "metadata", "restore", dump + ".bad", "--force")


main()
