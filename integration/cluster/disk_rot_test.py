#!/usr/bin/python3
# Scenario 6: one peer's disk is corrupted at 100 random places while it runs and is in use. A scrub
# finds and repairs all: another one finds nothing, every page that was on that disk is on it again,
# the peer starts from it, and its copies alone serve everything.
#
# Usage: disk_rot_test.py BIN_DIR [SEED]
import os
import random
import time

from cluster_lib import Cluster, arguments, step
from cluster_load import Load
from agro_testlib import MIB, wait_for

PAGE = 4096
BULK = 192 * MIB
PLACES = 100


def page(number):
    return (b"bulk%012d" % number) * (PAGE // 16)


PAGES = [page(number) for number in range(BULK // PAGE)]


def fill(client):
    handle = client.connect("bulk")
    per_write = MIB // PAGE
    for first in range(0, len(PAGES), per_write):
        handle.pwrite(b"".join(PAGES[first:first + per_write]), first * PAGE)
    handle.flush()
    handle.shutdown()


def read_bulk(client):
    handle = client.connect("bulk")
    per_read = MIB // PAGE
    for first in range(0, len(PAGES), per_read):
        data = bytes(handle.pread(MIB, first * PAGE))
        assert data == b"".join(PAGES[first:first + per_read]), f"bulk is wrong after page {first}"
    handle.shutdown()


def data_extents(file):
    """Of a sparse file: [(begin, end)]."""
    extents, at, size = [], 0, os.fstat(file.fileno()).st_size
    while at < size:
        try:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
        extents.append((begin, at))
    return extents


def good_pages(path):
    """The numbers of the pages of bulk that are somewhere in the file, intact."""
    found = set()
    with open(path, "rb") as file:
        for begin, end in data_extents(file):
            file.seek(begin)
            while begin < end:
                data = file.read(min(16 * MIB, end - begin))
                begin += len(data)
                for at in range(0, len(data), PAGE):
                    if data[at:at + 4] == b"bulk":
                        number = int(data[at + 4:at + 16]) if data[at + 4:at + 16].isdigit() else -1
                        if 0 <= number < len(PAGES) and data[at:at + PAGE] == PAGES[number]:
                            found.add(number)
    return found


def corrupt(path, rng):
    """Flips 1 to 64 bytes at 100 random places of what is written of the file."""
    with open(path, "r+b", buffering=0) as file:
        extents = data_extents(file)
        total = sum(end - begin for begin, end in extents)
        for _ in range(PLACES):
            at = rng.randrange(total)
            for begin, end in extents:
                if at < end - begin:
                    break
                at -= end - begin
            size = min(rng.randint(1, 64), end - begin - at)
            old = os.pread(file.fileno(), size, begin + at)
            os.pwrite(file.fileno(), bytes(byte ^ rng.randint(1, 255) for byte in old), begin + at)
        os.fsync(file.fileno())


def scrub(cluster, index):
    """Starts a scrub of one peer and waits for its end; returns its report."""
    address = f"adp://{cluster.peer_places[index].ip}:7000"

    peer_id = cluster.peer_view(index)["id"]

    def reports():
        return next(one for one in cluster.json("scrub", "status") if one["id"] == peer_id)

    before = reports()["finished"]
    time.sleep(1.1)  # times are told in whole seconds
    cluster.agroctl("scrub", "start", address)
    wait_for("the scrub ends", lambda: reports()["finished"] not in (None, before), 120, interval=0.5)
    return reports()


def main():
    bin_dir, seed, _ = arguments()
    rng = random.Random(seed)
    cluster = Cluster(bin_dir, peer_count=3, replication=2).start_peers()
    cluster.create_volume("bulk", "256MiB")
    cluster.create_volume("demo", "256MiB")
    client = cluster.start_client()
    fill(client)
    load = Load(seed, client, "demo", depth=4, think=0.002).start()
    load.watch(2)
    store = f"{cluster.peers[0].data_dir}/blocks"

    step(f"{PLACES} random places of peer 1's disk are corrupted")
    before = good_pages(store)
    assert len(before) > len(PAGES) / 3, f"{len(before)} of {len(PAGES)} pages are on peer 1"
    corrupt(store, rng)
    damaged = before - good_pages(store)
    print(f"{len(damaged)} of {len(before)} pages of bulk on it are damaged", flush=True)
    assert len(damaged) > PLACES / 10
    load.begin()
    begun = time.monotonic()
    report = scrub(cluster, 0)
    print(f"RESULT scenario 6, scrub: {time.monotonic() - begun:.1f} s, {report}", flush=True)
    load.end("scenario 6, the scrub", 2.0)
    assert report["bad_blocks"] == report["repaired_blocks"] and report["lost_blocks"] == 0
    assert report["bad_blocks"] > 0
    missing = before - good_pages(store)
    assert not missing, f"{len(missing)} pages are not repaired"

    step("another scrub finds nothing; the peer starts from that disk; its copies serve everything")
    report = scrub(cluster, 0)
    assert report["bad_blocks"] == 0, report
    load.pause()
    cluster.kill_peer(0)
    cluster.start_peer(0)
    print(f"healthy {cluster.wait_healthy(60):.1f} s after its restart", flush=True)
    bad = client.metric("agro_corrupt_replicas_total")
    for index in (1, 2):
        cluster.kill_peer(index)
        load.verify()
        read_bulk(client)
        cluster.start_peer(index)
        cluster.wait_healthy(60)
    assert client.metric("agro_corrupt_replicas_total") == bad, "a reader found a bad copy after the scrub"
    load.go_on()
    load.stop()
    cluster.stop()


if __name__ == "__main__":
    main()
