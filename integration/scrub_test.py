#!/usr/bin/python3
"""Scrub with real processes: rot in one peer's file, while it runs, is found and repaired.

Goal: issue 3, scenario 6: one peer's disk corrupted at 100 random places: scrub finds and repairs
all, a second scrub finds none, and reads are right throughout; rot in the store's own records does
no harm either, once a scrub has passed.
Method: known pages through NBD; flip bytes in peer-1/blocks at places of known pages, then anywhere in
the file, while the server runs; agroctl scrub start and status --wait --json.
Usage: scrub_test.py BIN_DIR
"""
import json
import os
import random
import subprocess
import sys

import agro_testlib as lib
from agro_testlib import MIB, Standalone, step

PAGE = 4096
DATA = 48 * MIB
PLACES = 100
SEED = int(os.environ.get("AGRO_TEST_SEED", "6"))
RANDOM = random.Random(SEED)
PAGES = [random.Random(number * 1000003 + SEED).randbytes(PAGE) for number in range(DATA // PAGE)]


class Cluster:
    def __init__(self, bin_dir, path):
        self.bin_dir, self.path = bin_dir, path
        self.metadata = f"sqlite:{path}/meta.db"
        self.server = None

    def start(self):
        self.server = Standalone(self.bin_dir, self.path, "--create-volume", "v=64MiB", "--size",
                                 "1GiB", "--scrub-rate", "0", "--scrub-interval", "never")
        return self.server

    @property
    def file(self):
        return os.path.join(self.path, "peer-1", "blocks")

    def agroctl(self, *args):
        done = subprocess.run([os.path.join(self.bin_dir, "agroctl"), "-C", self.metadata, *args],
                              capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout, done.stderr

    def peer_1(self):
        """Its UUID, by the address it listens on."""
        status, out, error = self.agroctl("peer", "list", "--json")
        assert status == 0, error
        return [peer["id"] for peer in json.loads(out)
                if any("peer-1/adp.sock" in address for address in peer["addresses"])][0]

    def flip(self, offsets):
        with open(self.file, "r+b") as file:
            for offset in offsets:
                file.seek(offset)
                old = file.read(1)
                file.seek(offset)
                file.write(bytes([old[0] ^ 0x10]))
            file.flush()
            os.fsync(file.fileno())

    def scrub(self, *peers):
        status, out, error = self.agroctl("scrub", "start", *peers)
        assert status == 0, error
        status, out, error = self.agroctl("scrub", "status", "--wait", "--json", *peers)
        assert status == 0, (out, error)
        reports = json.loads(out)
        for report in reports:
            assert report["state"] == "idle", report
            assert report["bytes_done"] == report["bytes_total"] > 0, report
            assert report["lost_blocks"] == 0, report
        return reports


def fill(cluster):
    disk = cluster.start().connect("v")
    for number, at in enumerate(range(0, DATA, MIB)):
        # Some blocks full and in slots of their own, some small and inside the store's log.
        part = MIB if number % 2 == 0 else 64 * lib.KIB
        for begin in range(at, at + MIB, part):
            disk.pwrite(b"".join(PAGES[begin // PAGE:(begin + part) // PAGE]), begin)
            disk.flush()
    # A clean detach: what the cleaner would move later is at rest.
    disk.shutdown()
    cluster.server.stop()
    cluster.start()


def check_all(cluster):
    disk = cluster.server.connect("v")
    for at in range(0, DATA, MIB):
        expected = b"".join(PAGES[at // PAGE:(at + MIB) // PAGE])
        assert bytes(disk.pread(MIB, at)) == expected, f"the MiB at {at} is wrong"
    disk.shutdown()


def known_places(cluster):
    """Offsets in peer 1's file of pages that volume v has: {page: [offset]}."""
    number_of = {page: number for number, page in enumerate(PAGES)}
    places = {}
    with open(cluster.file, "rb") as file:
        offset = 0
        while page := file.read(PAGE):
            if page in number_of:
                places.setdefault(number_of[page], []).append(offset)
            offset += PAGE
    return places


def rot_in_blocks(cluster):
    step(f"{PLACES} flipped bytes in known pages of peer 1, while it runs")
    places = known_places(cluster)
    assert len(places) > 2 * PLACES, len(places)
    chosen = RANDOM.sample(sorted(places), PLACES)
    cluster.flip([at + RANDOM.randrange(PAGE) for page in chosen for at in places[page]])
    report = cluster.scrub(cluster.peer_1())[0]
    print(f"    bad {report['bad_blocks']}, repaired {report['repaired_blocks']}")
    assert 0 < report["bad_blocks"] <= PLACES, report
    assert report["repaired_blocks"] == report["bad_blocks"], report
    held = known_places(cluster)
    missing = [page for page in chosen if page not in held]
    assert not missing, f"peer 1 should hold these pages again: {missing}"
    step("a second scrub, of all peers, finds none; reads are right")
    reports = cluster.scrub()
    assert len(reports) == 3 and all(each["bad_blocks"] == 0 for each in reports), reports
    check_all(cluster)


def rot_anywhere(cluster):
    step(f"{PLACES} flipped bytes anywhere in peer 1's file, its own records too, then kill -9")
    size = os.path.getsize(cluster.file)
    # Both superblocks and the headers of log frames among them: what a restart would need.
    frames = pages_that_start_with(cluster.file, b"AFRM")
    offsets = [RANDOM.randrange(size) for _ in range(PLACES)] + [100, PAGE + 100]
    cluster.flip(offsets + [at + 16 for at in frames])
    report = cluster.scrub(cluster.peer_1())[0]
    print(f"    bad {report['bad_blocks']}, repaired {report['repaired_blocks']}")
    assert report["repaired_blocks"] == report["bad_blocks"], report
    cluster.server.kill()
    cluster.start()
    reports = cluster.scrub()
    assert all(each["bad_blocks"] == 0 for each in reports), reports
    check_all(cluster)


def pages_that_start_with(path, magic):
    with open(path, "rb") as file:
        content = file.read()
    return [at for at in range(0, len(content), PAGE) if content.startswith(magic, at)]


def gc(cluster):
    step("gc by hand: a whole cycle, nothing deleted at once, reads are right")
    status, out, error = cluster.agroctl("gc", "start")
    assert status == 0 and "3 of 3 peers" in out, (out, error)
    status, out, error = cluster.agroctl("gc", "status", "--wait", "--json")
    assert status == 0, error
    for report in json.loads(out):
        assert report["state"] == "idle" and report["problem"] == "", report
        assert report["finished"] and report["deleted_blocks"] == 0, report
    check_all(cluster)


def bad_use(cluster):
    step("wrong use is refused with a reason")
    for args, expected in ((("scrub", "start", "nobody"), "neither a peer's UUID"),
                           (("scrub", "status", "adp://127.0.0.1:1"), "there is no peer")):
        status, _, error = cluster.agroctl(*args)
        assert status == 1 and expected in error, (args, error)


def main():
    cluster = Cluster(sys.argv[1], os.path.join(lib.scratch_dir(), "data"))
    fill(cluster)
    rot_in_blocks(cluster)
    rot_anywhere(cluster)
    gc(cluster)
    bad_use(cluster)
    cluster.server.stop()
    print("ok")


main()
