#!/usr/bin/python3
"""Flipped bytes in the store files of a stopped server.

Goal: whatever rots in one replica, reads are right and the replica is repaired; what rots in both
is an I/O error that names its block, and the server goes on; damage to a store's own records is
recovered from or refused with a clear error, never served.
Method: write known pages, stop, flip bytes in peer-N/blocks, start, read with libnbd.
Usage: corrupt_replica_test.py BIN_DIR
"""
import errno
import os
import random
import shutil
import sys

import agro_testlib as lib
from agro_testlib import MIB, Standalone, step, wait_for

PAGE = 4096
SIZE = 48 * MIB
DATA = 24 * MIB
SEED = int(os.environ.get("AGRO_TEST_SEED", "4"))


def page_bytes(number):
    return random.Random(number * 1000003 + SEED).randbytes(PAGE)


PAGES = [page_bytes(number) for number in range(DATA // PAGE)]


class Cluster:
    def __init__(self, bin_dir, path):
        self.bin_dir, self.path = bin_dir, path
        self.server = None

    def start(self):
        self.server = Standalone(self.bin_dir, self.path, "--create-volume", "v=48MiB",
                                 "--create-volume", "other=16MiB", "--size", "1GiB")
        return self.server

    def blocks(self, peer):
        return os.path.join(self.path, f"peer-{peer}", "blocks")

    def places(self, page):
        """Where intact copies of a page lie: {peer: offset}."""
        found = {}
        for peer in (1, 2, 3):
            with open(self.blocks(peer), "rb") as file:
                content = file.read()
            at = content.find(PAGES[page])
            if at >= 0:
                found[peer] = at
        return found

    def flip(self, peer, offset, count=1):
        with open(self.blocks(peer), "r+b") as file:
            file.seek(offset)
            old = file.read(count)
            file.seek(offset)
            file.write(bytes(byte ^ 0x40 for byte in old))


def fill(cluster, kill=False):
    server = cluster.start()
    disk = server.connect("v")
    other = server.connect("other")
    other.pwrite(b"other" * 800, 0)
    other.flush()
    other.shutdown()
    for number, at in enumerate(range(0, DATA, MIB)):
        # Some blocks full and in slots of their own, some small and inside the store's log.
        part = MIB if number % 2 == 0 else 64 * lib.KIB
        for begin in range(at, at + MIB, part):
            disk.pwrite(b"".join(PAGES[begin // PAGE:(begin + part) // PAGE]), begin)
            disk.flush()
    if kill:
        server.kill()
        return
    disk.shutdown()
    server.stop()


def read_page(disk, page):
    return bytes(disk.pread(PAGE, page * PAGE))


def check_all(server, but=()):
    """Reads every page; those in `but` must fail or be right, all others be right."""
    disk = server.connect("v")
    for page, expected in enumerate(PAGES):
        if page in but:
            continue
        assert read_page(disk, page) == expected, f"page {page} is wrong"
    assert bytes(disk.pread(MIB, DATA)) == bytes(MIB), "what was never written must be zeros"
    disk.shutdown()


def one_replica(cluster):
    step("a flipped byte in one replica: right data, counted, repaired")
    page = 1000
    places = cluster.places(page)
    assert len(places) == 2, f"two copies of page {page}, not {places}"
    counted = 0
    for peer, at in places.items():
        cluster.flip(peer, at + 1234)
        server = cluster.start()
        disk = server.connect("v")
        assert read_page(disk, page) == PAGES[page]
        counted = server.metric("agro_corrupt_replicas_total")
        if counted > 0:
            wait_for("the replica is repaired",
                     lambda: server.metric("agro_repaired_replicas_total") == counted)
        disk.shutdown()
        server.stop()
        if counted > 0:
            break
        cluster.flip(peer, at + 1234)  # the other copy is the one that is read: back, and that one
    assert counted == 1, f"one bad copy was read, {counted} were counted"
    places = cluster.places(page)
    assert len(places) == 2, f"after the repair two peers hold it again, not {places}"


def both_replicas(cluster):
    step("the same page in both replicas: an I/O error that names the block; the rest is served")
    page = 2000
    places = cluster.places(page)
    assert len(places) == 2, places
    for peer, at in places.items():
        cluster.flip(peer, at + 77, count=3)
    server = cluster.start()
    disk = server.connect("v")
    import nbd
    try:
        read_page(disk, page)
        raise AssertionError("a page without a good copy was read")
    except nbd.Error as error:
        assert error.errnum == errno.EIO, f"EIO is what the client must see, not {error}"
    line = wait_for("a log line names the block",
                    lambda: [each for each in server.log().splitlines()
                             if "every copy is bad" in each and "data:" in each])[0]
    print("    " + line)
    assert server.metric("agro_corrupt_replicas_total") >= 2
    assert read_page(disk, page + 1) == PAGES[page + 1], "its neighbour in the block is good"
    disk.shutdown()
    check_all(server, but={page})
    other = server.connect("other")
    assert bytes(other.pread(4000, 0)) == b"other" * 800
    other.shutdown()
    step("what is written over the bad page is there, also after a restart")
    disk = server.connect("v")
    disk.pwrite(PAGES[page], page * PAGE)
    disk.flush()
    assert read_page(disk, page) == PAGES[page]
    disk.shutdown()
    server.stop()
    server = cluster.start()
    check_all(server)
    server.stop()


def start_or_refuse(cluster):
    """Starts the server: None when it refuses with one clear line."""
    log = cluster.path + ".log"
    if os.path.exists(log):
        os.remove(log)
    try:
        return cluster.start()
    except AssertionError:
        server = lib._processes[-1]
        if server.alive():
            raise
        status = server.wait()
        lines = server.log().strip().splitlines()
        assert status == 1, f"exit status {status}: {lines}"
        last = lines[-1]
        assert last.startswith("agro: ") and "/blocks" in last, lines
        print("    refused: " + last)
        return None


def pages_that_start_with(path, magic):
    with open(path, "rb") as file:
        content = file.read()
    return [at for at in range(0, len(content), PAGE) if content.startswith(magic, at)]


def damage_cases(path, killed):
    """(name, [(offset, bytes)], whether it must be refused; None: either will do)."""
    cases = []
    frames = pages_that_start_with(path, b"AFRM")
    assert frames, f"no frame in {path}"
    if killed:  # here the log counts
        middle = frames[len(frames) // 2]
        cases += [("last frame: header", [(frames[-1] + 16, 1)], None),
                  ("last frame: record", [(frames[-1] + 100, 1)], None),
                  ("middle frame: header", [(middle + 16, 1)], True),
                  ("middle frame: record", [(middle + 100, 1)], True),
                  ("every frame", [(each + 60, 1) for each in frames], None),
                  ("inline blocks", [(each + PAGE + 9, 1) for each in frames
                                     if each + PAGE not in frames], False)]
    else:
        checkpoint = pages_that_start_with(path, b"AGCP")[-1]
        cases += [("superblock 0", [(0, 96)], False),
                  ("superblock 1", [(PAGE, 96)], False),
                  ("both superblocks", [(0, 96), (PAGE, 96)], True),
                  ("both superblocks, one byte", [(90, 1), (PAGE + 90, 1)], True),
                  ("checkpoint: header", [(checkpoint + 16, 1)], True),
                  ("checkpoint: record", [(checkpoint + PAGE + 20, 1)], True)]
    pages = os.path.getsize(path) // PAGE
    generator = random.Random(SEED)
    for number in range(3):
        cases.append((f"random {number}",
                      [(generator.randrange(pages) * PAGE + generator.randrange(PAGE), 1)
                       for _ in range(200)], None))
    return cases


def own_records(cluster, pristine, killed):
    step(f"a store's own records after {'kill -9' if killed else 'a clean stop'}: "
         "recovered or refused, never garbage")
    for name, places, must_refuse in damage_cases(os.path.join(pristine, "peer-1", "blocks"), killed):
        print(f"  {name}", flush=True)
        shutil.rmtree(cluster.path)
        shutil.copytree(pristine, cluster.path, ignore=shutil.ignore_patterns("*.sock"))
        for offset, count in places:
            cluster.flip(1, offset, count)
        server = start_or_refuse(cluster)
        assert must_refuse is None or must_refuse == (server is None), f"{name}: {must_refuse=}"
        if server is not None:
            check_all(server)
            server.stop()


def advice(cluster, pristine):
    step("what a refusal advises works: without that file the other copies serve everything")
    shutil.rmtree(cluster.path)
    shutil.copytree(pristine, cluster.path)
    os.remove(cluster.blocks(1))
    server = cluster.start()
    check_all(server)
    server.stop()


def bad_log_tail(cluster, pristine):
    step("a bad block in the log that an opening replays: one copy is replaced, two fail that volume")
    shutil.rmtree(cluster.path)
    shutil.copytree(pristine, cluster.path, ignore=shutil.ignore_patterns("*.sock"))
    page = 1000
    places = cluster.places(page)
    assert len(places) == 2, places
    counted = 0
    for peer, at in places.items():
        cluster.flip(peer, at + 5)
        server = cluster.start()
        check_all(server)
        bad = server.metric("agro_corrupt_replicas_total")  # 0: the other copy is the one it reads
        wait_for("what was bad is repaired",
                 lambda: server.metric("agro_repaired_replicas_total") == bad)
        server.kill()
        assert bad == 0 or len(cluster.places(page)) == 2
        counted += bad
        shutil.rmtree(cluster.path)
        shutil.copytree(pristine, cluster.path, ignore=shutil.ignore_patterns("*.sock"))
    assert counted > 0
    for peer, at in places.items():
        cluster.flip(peer, at + 5)
    server = cluster.start()
    import nbd
    try:
        server.connect("v")
        raise AssertionError("a volume whose flushed data is gone was opened")
    except nbd.Error:
        pass
    wait_for("a log line names the block", lambda: "every copy is bad" in server.log())
    print("    " + [line for line in server.log().splitlines() if "every copy" in line][-1])
    other = server.connect("other")
    assert bytes(other.pread(4000, 0)) == b"other" * 800
    other.shutdown()
    server.stop()


def main():
    bin_dir = sys.argv[1]
    scratch = lib.scratch_dir()
    pristines = []
    for name in ("clean", "killed"):
        cluster = Cluster(bin_dir, os.path.join(scratch, name))
        fill(cluster, kill=name == "killed")
        pristines.append(cluster.path)
    cluster = Cluster(bin_dir, os.path.join(scratch, "data"))
    shutil.copytree(pristines[0], cluster.path)
    one_replica(cluster)
    both_replicas(cluster)
    own_records(cluster, pristines[0], killed=False)
    own_records(cluster, pristines[1], killed=True)
    bad_log_tail(cluster, pristines[1])
    advice(cluster, pristines[0])
    print("ok")


main()
