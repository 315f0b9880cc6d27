#!/usr/bin/python3
"""Snapshots, clones, restored, renamed and larger volumes, on processes: 3 peers, 2 copies.

Goal: what docs/snapshotting.md promises: a snapshot of a volume in use holds all that was flushed, never
changes, is quick whatever was written, is served as VOLUME@NAME, can be dumped, cloned and restored, and
its space comes back. Method: agroctl beside NBD clients, kill -9 in between, gc without its grace period.
Usage: snapshot_test.py BIN_DIR
"""
import json
import os
import statistics
import sys
import time

import nbd

import agro_testlib as lib
from agro_cluster import Cluster
from agro_testlib import MIB, step, wait_for

SIZE = 64 * MIB
PART = 256 * lib.KIB


def pattern(seed, number):
    return (b"%016d%016d" % (seed, number)) * (PART // 32)


def write(disk, seed, parts=range(SIZE // PART)):
    for number in parts:
        disk.pwrite(pattern(seed, number), number * PART)
    disk.flush()


def check(disk, seed, parts=range(SIZE // PART)):
    for number in parts:
        assert disk.pread(PART, number * PART) == pattern(seed, number), f"part {number} is not of {seed}"


class Test:
    def __init__(self, bin_dir, directory):
        self.cluster = Cluster(bin_dir, f"{directory}/c", peer_size="1GiB", block_size="256KiB",
                               peer_options=("--gc-grace", "1s"))
        self.cluster.create_volume("v", "64MiB")
        self.cluster.start()
        self.dir = directory

    def ctl(self, *args):
        return self.cluster.agroctl(*args).stdout

    def refuse(self, text, *args):
        try:
            self.ctl(*args)
        except AssertionError as error:
            assert text in str(error), f"{args}: {error}"
            return
        raise AssertionError(f"{args} succeeded")

    def connect(self, volume):
        return wait_for(f"{volume} can be opened", lambda: self.try_connect(volume), 20)

    def try_connect(self, volume):
        try:
            return self.cluster.connect(volume)
        except nbd.Error:
            return None

    def used(self):
        return sum(peer.metric("agro_store_used_bytes") for peer in self.cluster.peers)

    def snapshots_never_change(self):
        step("snapshots of a volume in use")
        disk = self.connect("v")
        seconds = []
        for seed in range(1, 5):
            write(disk, seed)
            begin = time.monotonic()
            self.ctl("block", "snapshot", "create", f"v@s{seed}")
            seconds.append(time.monotonic() - begin)
        print(f"a snapshot took {statistics.median(seconds) * 1000:.0f} ms (median of {len(seconds)}, agroctl and all)")
        write(disk, 5, range(0, 100))
        assert self.ctl("block", "snapshot", "list", "v", "--csv").count("\n") == 5
        for seed in range(1, 5):
            snapshot = self.connect(f"v@s{seed}")
            assert snapshot.is_read_only() and snapshot.get_size() == SIZE
            check(snapshot, seed)
            snapshot.shutdown()
        step("the client and a peer are killed")
        self.cluster.client.kill()
        self.cluster.kill_peer(0)
        self.cluster.start_peer(0)
        self.cluster.start_client()
        disk = self.connect("v")
        check(disk, 5, range(0, 100))
        check(disk, 4, range(100, SIZE // PART))
        for seed in range(1, 5):
            check(self.connect(f"v@s{seed}"), seed)
        self.refuse("exists already", "block", "snapshot", "create", "v@s1")
        self.refuse("no snapshot", "block", "snapshot", "delete", "v@none")
        self.refuse("write VOLUME@NAME", "block", "snapshot", "create", "v")
        self.refuse("open by", "block", "snapshot", "restore", "v@s1")
        assert self.try_connect("v@none") is None
        step("another snapshot under the name of one that a client still has open")
        old = self.connect("v@s4")
        self.ctl("block", "snapshot", "create", "v@again")
        again = self.connect("v@again")
        check(again, 5, range(0, 100))
        self.ctl("block", "snapshot", "delete", "v@again")
        write(disk, 8, range(0, 100))
        self.ctl("block", "snapshot", "create", "v@again")
        check(self.connect("v@again"), 8, range(0, 100))
        self.ctl("block", "snapshot", "delete", "v@again")
        check(old, 4)
        step("a dump of a snapshot, while the volume is written")
        write(disk, 6, range(50))
        self.ctl("block", "dump", "v@s3", f"{self.dir}/s3.img")
        with open(f"{self.dir}/s3.img", "rb") as image:
            assert image.read() == b"".join(pattern(3, number) for number in range(SIZE // PART))
        disk.shutdown()
        self.differences()

    def diff(self, old, new):
        found = json.loads(self.ctl("block", "diff", old, new, "--json"))
        return [(one["offset"], one["length"], one["kind"]) for one in found]

    def differences(self):
        step("what changed between snapshots")
        disk = self.connect("v")
        self.ctl("block", "snapshot", "create", "v@d0")
        disk.pwrite(b"x" * 8192, 4096)
        disk.zero(PART, 8 * MIB, nbd.CMD_FLAG_NO_HOLE)
        self.ctl("block", "snapshot", "create", "v@d1")
        wanted = [(4096, 8192, "data"), (8 * MIB, PART, "zero")]
        assert self.diff("v@d0", "v@d1") == wanted, self.diff("v@d0", "v@d1")
        assert self.diff("v@d1", "v@d0") == [(4096, 8192, "data"), (8 * MIB, PART, "data")]
        assert self.diff("v@d1", "v") == []
        disk.pwrite(b"y" * 512, 32 * MIB + 512)
        assert self.diff("v@d0", "v") == wanted + [(32 * MIB, 4096, "data")]
        assert "nothing changed" in self.ctl("block", "diff", "v@d1", "v@d1")
        assert "d1" in self.ctl("block", "snapshot", "list", "v") and "diff-" not in self.ctl("block", "snapshot", "list", "v")
        self.refuse("no snapshot 'none'", "block", "diff", "v@none", "v@d1")
        self.refuse("is no snapshot", "block", "diff", "v", "v@d1")
        disk.shutdown()
        wait_for("v is closed", lambda: '"open_by": null' in self.ctl("volume", "list", "--json"), 10)
        assert self.diff("v@d0", "v") == wanted + [(32 * MIB, 4096, "data")]
        for name in ("d0", "d1"):
            self.ctl("block", "snapshot", "delete", f"v@{name}")

    def clones_live_alone(self):
        step("clones")
        self.ctl("volume", "clone", "v@s2", "two")
        self.ctl("volume", "clone", "two", "deeper")  # of what nobody has open
        two, deeper = self.connect("two"), self.connect("deeper")
        check(two, 2)
        check(deeper, 2)
        write(two, 22, range(0, 64))
        write(deeper, 33, range(64, 128))
        check(two, 2, range(64, 256))
        check(deeper, 2, range(0, 64))
        two.shutdown()
        deeper.shutdown()
        step("their parents are deleted")
        self.refuse("--snapshots", "volume", "delete", "v")
        wait_for("v is closed", lambda: "open by" not in self.ctl("volume", "list", "--json") and
                 self.ctl("volume", "list", "--json").count('"open_by": null') == 3, 10)
        self.ctl("volume", "delete", "two")
        self.gc(2)
        deeper = self.connect("deeper")
        check(deeper, 2, range(0, 64))
        check(deeper, 33, range(64, 128))
        deeper.shutdown()

    def restored_renamed_grown(self):
        step("restore, rename, resize")
        wait_for("v is closed", lambda: self.ctl("volume", "list", "--json").count('"open_by": null') == 2, 10)
        self.ctl("block", "snapshot", "restore", "v@s1")
        self.ctl("volume", "rename", "v", "w")
        disk = self.connect("w")
        check(disk, 1)
        check(self.connect("w@s4"), 4)
        write(disk, 7, range(10))
        self.ctl("volume", "resize", "w", "96MiB")
        self.refuse("open by", "volume", "resize", "w", "64MiB", "--force")
        larger = wait_for("the new size is seen", lambda: (lambda d: d if d.get_size() == 96 * MIB else None)
                          (self.connect("w")), 10)
        larger.pwrite(b"end" * 100, 96 * MIB - 300)
        larger.flush()
        larger.shutdown()
        disk.shutdown()
        self.cluster.client.kill()
        self.cluster.start_client()
        disk = self.connect("w")
        assert disk.get_size() == 96 * MIB and disk.pread(300, 96 * MIB - 300) == b"end" * 100
        check(disk, 7, range(10))
        check(disk, 1, range(10, SIZE // PART))
        disk.shutdown()
        self.shrunk()
        disk = self.connect("w")
        step("limits")
        self.refuse("nothing to change", "volume", "set", "w")
        self.refuse("no limit", "volume", "set", "w", "--iops", "many")
        self.ctl("volume", "set", "w", "--iops", "20", "--bandwidth", "1GiB")
        assert '"iops_max": 20' in self.ctl("volume", "list", "--json")
        wait_for("the limit holds", lambda: self.seconds_of_reads(disk, 10) > 0.2, 10)
        self.ctl("volume", "set", "w", "--iops", "none", "--bandwidth", "none")
        wait_for("the limit is gone", lambda: self.seconds_of_reads(disk, 10) < 0.2, 10)
        disk.shutdown()

    def shrunk(self):
        step("smaller, and larger again")
        wait_for("w is closed", lambda: self.ctl("volume", "list", "--json").count('"open_by": null') == 2, 10)
        self.ctl("block", "snapshot", "create", "w@large")
        self.refuse("--force says that it may", "volume", "resize", "w", "64MiB")
        self.refuse("4.0 KiB of data", "volume", "resize", "w", "64MiB")
        end = 5 * MIB + 4096
        self.ctl("volume", "resize", "w", str(end), "--force")
        disk = self.connect("w")
        assert disk.get_size() == end
        assert disk.pread(4096, end - 4096) == pattern(1, end // PART)[:4096]
        disk.shutdown()
        self.ctl("volume", "resize", "w", "96MiB")
        disk = wait_for("the new size is seen", lambda: (lambda d: d if d.get_size() == 96 * MIB else None)
                        (self.connect("w")), 10)
        check(disk, 7, range(10))
        check(disk, 1, range(10, end // PART))
        for offset in range(end, 96 * MIB, MIB):
            size = min(MIB, 96 * MIB - offset)
            assert disk.pread(size, offset) == bytes(size), offset
        snapshot = self.connect("w@large")
        assert snapshot.get_size() == 96 * MIB
        check(snapshot, 1, range(10, SIZE // PART))
        snapshot.shutdown()
        disk.shutdown()
        wait_for("w is closed", lambda: self.ctl("volume", "list", "--json").count('"open_by": null') == 2, 10)
        self.ctl("block", "snapshot", "delete", "w@large")

    @staticmethod
    def seconds_of_reads(disk, count):
        begun = time.monotonic()
        for number in range(count):
            disk.pread(4096, 4096 * number)
        return time.monotonic() - begun

    def gc(self, times):
        for _ in range(times):
            self.ctl("gc", "start")
            wait_for("gc is done", lambda: '"running": true' not in self.ctl("gc", "status", "--json"), 30)

    def space_comes_back(self):
        step("everything is deleted but the clone")
        before = self.used()
        wait_for("w is closed", lambda: self.ctl("volume", "list", "--json").count('"open_by": null') == 2, 10)
        self.ctl("volume", "delete", "w", "--snapshots")
        # The clone's 64 MiB and its 16 MiB of its own, in two copies, and what the snapshot that it started from
        # has in its checkpoint and no more in its log: up to 64 MiB, in two copies as well.
        def freed():
            self.gc(1)
            return self.used() < 330 * MIB
        wait_for(f"space comes back: {before / MIB:.0f} MiB were used", freed, 60, 1)
        disk = self.connect("deeper")
        check(disk, 2, range(0, 64))
        check(disk, 33, range(64, 128))
        check(disk, 2, range(128, 256))
        disk.shutdown()
        wait_for("deeper is closed", lambda: self.ctl("volume", "list", "--json").count('"open_by": null') == 1, 10)
        self.ctl("volume", "delete", "deeper")

        def empty():
            self.gc(1)
            return self.used() < 8 * MIB
        wait_for("nothing is left", empty, 60, 1)


def main():
    test = Test(sys.argv[1], lib.scratch_dir())
    test.snapshots_never_change()
    test.clones_live_alone()
    test.restored_renamed_grown()
    test.space_comes_back()
    test.cluster.stop()
    print("passed")


if __name__ == "__main__":
    main()
