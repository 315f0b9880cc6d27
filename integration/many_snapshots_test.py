#!/usr/bin/python3
"""A thousand snapshots of one volume in use: docs/snapshotting.md has what this prints.

Goal: the last snapshot takes no longer than the first, each is what it was, and opening, listing, gc and memory
stay small. Method: agroctl and `agro standalone`; a client writes between the snapshots.
Usage: many_snapshots_test.py BIN_DIR [COUNT]
"""
import json
import os
import statistics
import sys
import time

import agro_testlib as lib
from agro_testlib import KIB, MIB, step, wait_for

BATCH = 50


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * KIB


class Test:
    def __init__(self, bin_dir, count):
        self.bin_dir, self.count = bin_dir, count
        self.dir = lib.scratch_dir() + "/a"
        self.options = ("--size", "4GiB", "--block-size", "1MiB", "--gc-grace", "1s")
        self.server = lib.Standalone(bin_dir, self.dir, *self.options, "--create-volume", "v=1GiB")

    def ctl(self, *args):
        return lib.run([f"{self.bin_dir}/agroctl", "-C", f"sqlite:{self.dir}/meta.db", *args]).stdout

    def make(self):
        step(f"{self.count} snapshots")
        disk = self.server.connect("v")
        disk.pwrite(os.urandom(32 * MIB), 0)
        disk.flush()
        before = rss(self.server.pid)
        seconds = []
        for number in range(self.count):
            disk.pwrite(b"%08d" % number * 512, 4 * KIB * (number % 4096))
            begin = time.monotonic()
            self.ctl("block", "snapshot", "create", f"v@s{number}")
            seconds.append(time.monotonic() - begin)
        first, last = (statistics.median(part) * 1000 for part in (seconds[:BATCH], seconds[-BATCH:]))
        grown = rss(self.server.pid) - before
        print(f"a snapshot, agroctl and all: {first:.0f} ms (median of the first {BATCH}), {last:.0f} ms (of the last); "
              f"the server's memory grew by {grown / MIB:.0f} MiB", flush=True)
        assert last < 2 * first + 20, "snapshots get slower"
        assert grown < 512 * MIB
        disk.shutdown()

    def check(self):
        step("they are what they were")
        listed = json.loads(self.ctl("block", "snapshot", "list", "v", "--json"))
        assert len(listed) == self.count
        for number in {0, 1, self.count // 2, self.count - 1}:
            disk = self.server.connect(f"v@s{number}")
            assert disk.pread(4 * KIB, 4 * KIB * (number % 4096)) == b"%08d" % number * 512
            after = disk.pread(4 * KIB, 4 * KIB * ((number + 1) % 4096))
            assert after != b"%08d" % (number + 1) * 512, "it has what came later"
            disk.shutdown()

    def reopen(self):
        step("opened again")
        wait_for("v is closed", lambda: '"open_by": null' in self.ctl("volume", "list", "--json"), 10)
        begin = time.monotonic()
        disk = self.server.connect("v")
        print(f"opening the volume: {(time.monotonic() - begin) * 1000:.0f} ms", flush=True)
        disk.pwrite(b"after" * 100, 0)
        disk.shutdown()
        begin = time.monotonic()
        self.ctl("block", "snapshot", "list", "v")
        print(f"listing them, agroctl and all: {(time.monotonic() - begin) * 1000:.0f} ms", flush=True)

    def collect(self):
        step("gc")
        begin = time.monotonic()
        self.ctl("gc", "start")
        wait_for("gc is done", lambda: '"running": true' not in self.ctl("gc", "status", "--json"), 120)
        print(f"a cycle of gc: {(time.monotonic() - begin) * 1000:.0f} ms", flush=True)
        self.check()
        print(f"the server's memory: {rss(self.server.pid) / MIB:.0f} MiB", flush=True)


def main():
    test = Test(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
    test.make()
    test.check()
    test.reopen()
    test.collect()
    test.server.stop()
    print("passed")


if __name__ == "__main__":
    main()
