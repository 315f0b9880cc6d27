#!/usr/bin/env python3
# Goal: a cluster whose metadata are lost comes back from its peers' blocks alone, with every flushed
# write, and without the volumes that were deleted.
# Method: a standalone server with three volumes, one deleted; data goes in over NBD, some of it after the
# last checkpoint; kill -9, meta.db deleted, `agroctl metadata rebuild` from the directories, restart, all
# read again. Then once more with every store behind `agro --without-metadata`, by address.
# Usage: metadata_rebuild_test.py BIN_DIR
import hashlib
import json
import os
import random
import shlex
import sys

from agro_testlib import MIB, Process, Standalone, run, scratch_dir, step, wait_for

BIN = os.path.abspath(sys.argv[1])
NAMES = ("one", "two")


def agroctl(*args, check=True):
    return run([os.path.join(BIN, "agroctl"), *args], check=check)


def digest(server, name):
    disk = server.connect(name)
    whole = hashlib.sha256()
    for offset in range(0, 64 * MIB, 4 * MIB):
        whole.update(disk.pread(4 * MIB, offset))
    disk.shutdown()
    return whole.hexdigest()


def write(server, name, rng, model):
    """Random writes over NBD, all flushed; returns the connection, so that no detach makes a checkpoint."""
    disk = server.connect(name)
    for _ in range(40):
        size = rng.randrange(1, 256) * 4096
        offset = rng.randrange(0, (64 * MIB - size) // 4096) * 4096
        data = rng.randbytes(size)
        disk.pwrite(data, offset)
        model[offset:offset + size] = data
    disk.flush()
    return disk


def lose_metadata(data_dir):
    for name in ("meta.db", "meta.db-wal", "meta.db-shm"):
        path = os.path.join(data_dir, name)
        if os.path.exists(path):
            os.unlink(path)


def check(data_dir, models):
    server = Standalone(BIN, data_dir, "--size", "1GiB")
    listed = json.loads(agroctl("-C", f"sqlite:{data_dir}/meta.db", "volume", "list", "--json").stdout)
    assert sorted(each["name"] for each in listed) == sorted(NAMES), listed
    for name in NAMES:
        assert digest(server, name) == hashlib.sha256(models[name]).hexdigest(), name
    return server


def main():
    directory = scratch_dir()
    data_dir = os.path.join(directory, "data")
    uri = f"sqlite:{data_dir}/meta.db"
    rng = random.Random(3)
    models = {name: bytearray(64 * MIB) for name in NAMES}

    step("write, checkpoint, write more, kill -9")
    server = Standalone(BIN, data_dir, "--size", "1GiB", "--create-volume", "one=64MiB",
                        "--create-volume", "two=64MiB", "--create-volume", "gone=64MiB", "-v")
    write(server, "gone", rng, bytearray(64 * MIB)).shutdown()
    for name in NAMES:
        write(server, name, rng, models[name]).shutdown()
    wait_for("the volume is detached", lambda: agroctl(
        "-C", uri, "volume", "delete", "gone", check=False).returncode == 0)
    wait_for("its blocks are gone", lambda: server.log().count("purged") >= 3)
    agroctl("-C", uri, "block", "snapshot", "create", "one@before")
    agroctl("-C", uri, "block", "snapshot", "create", "two@gone")
    agroctl("-C", uri, "block", "snapshot", "create", "two@before")
    before = {name: hashlib.sha256(models[name]).hexdigest() for name in NAMES}
    disks = [write(server, name, rng, models[name]) for name in NAMES]
    server.kill()
    del disks
    cluster = agroctl("-C", uri, "status", "--json", check=False).stdout

    step("rebuild from the directories")
    lose_metadata(data_dir)
    dry = json.loads(agroctl("metadata", "rebuild", "--data-dir", data_dir, "--dry-run", "--json").stdout)
    assert not dry["written"] and not os.path.exists(f"{data_dir}/meta.db")
    assert len(dry["peers"]) == 3 and dry["replication"] == 2 and dry["cluster"] in cluster, (dry, cluster)
    assert [(each["name"], each["state"]) for each in dry["volumes"]] == [
        ("one", "whole"), ("two", "whole")], dry
    assert all(each["size_bytes"] == 64 * MIB for each in dry["volumes"]), dry
    # Written last, and killed before a checkpoint; the other may have been idle long enough for one.
    assert dry["volumes"][1]["log_blocks"] > 0, dry
    lost = agroctl("-C", f"sqlite:{directory}/other.db", "metadata", "rebuild",
                   "--data-dir", f"{data_dir}/peer-1", check=False)
    assert lost.returncode == 1 and "uncertain" in lost.stderr and "nothing was written" in lost.stderr, lost
    print(agroctl("-C", uri, "metadata", "rebuild", "--data-dir", data_dir).stdout)
    again = agroctl("-C", uri, "metadata", "rebuild", "--data-dir", data_dir, check=False)
    assert again.returncode == 1 and "not empty" in again.stderr, again
    server = check(data_dir, models)
    for name in NAMES:
        assert digest(server, f"{name}@before") == before[name], name
    busy = agroctl("metadata", "rebuild", "--data-dir", data_dir, "--dry-run", check=False)
    assert busy.returncode == 1 and "its peer is running" in busy.stderr, busy

    step("rebuild by address")
    agroctl("-C", uri, "volume", "create-block", "three", "64MiB")
    agroctl("-C", uri, "volume", "delete", "three")
    disks = [write(server, name, rng, models[name]) for name in NAMES]
    server.kill()
    del disks
    lose_metadata(data_dir)
    readers, arguments = [], []
    for number in (1, 2, 3):
        reader = Process([os.path.join(BIN, "agro"), "--without-metadata", "--data-dir",
                          f"{data_dir}/peer-{number}", "--size", "1GiB", "--peer-address",
                          f"adp+unix:{directory}/reader-{number}.sock"], f"{directory}/reader-{number}.log")
        wait_for("the store is served", lambda: "--peer" in reader.log())
        readers.append(reader)
        line = next(each for each in reader.log().splitlines() if "--peer" in each)
        words = shlex.split(line)
        arguments += words[3:] if number == 1 else words[words.index("--peer"):]
    shown = agroctl("-C", uri, "metadata", "rebuild", *arguments, "--json").stdout
    assert json.loads(shown)["written"], shown
    for reader in readers:
        assert reader.terminate() == 0, reader.log()
    server = check(data_dir, models)
    for name in NAMES:
        assert digest(server, f"{name}@before") == before[name], name
    server.stop()


if __name__ == "__main__":
    main()
