#!/usr/bin/python3
"""Backups: one full dump and its increments, from one cluster into another, on processes.

Goal: what docs/snapshotting.md promises: a chain of backups brings back each state, holds only what changed,
goes on after an interruption with the same bytes, and whatever is damaged, cut, out of order, or would lose
something is refused with a word on what to do. Method: agroctl beside two `agro standalone`; states are read back
byte by byte.
Usage: backup_test.py BIN_DIR
"""
import hashlib
import os
import random
import subprocess
import sys

import agro_testlib as lib
from agro_testlib import KIB, MIB, step, wait_for

SIZE = 96 * MIB


class Side:
    """A cluster of one process."""

    def __init__(self, bin_dir, directory, *options):
        self.bin_dir = bin_dir
        self.server = lib.Standalone(bin_dir, directory, "--size", "1GiB", "--block-size", "256KiB", *options)
        self.metadata = f"sqlite:{directory}/meta.db"

    def args(self, *args):
        return [f"{self.bin_dir}/agroctl", "-C", self.metadata, *args]

    def ctl(self, *args):
        return lib.run(self.args(*args)).stdout

    def refuse(self, text, *args):
        done = lib.run(self.args(*args), check=False)
        assert done.returncode != 0, f"{args} succeeded: {done.stdout}"
        assert text in done.stderr, f"{args}: {done.stderr}"

    def pipe(self, data, *args):
        return subprocess.run(self.args(*args), input=data, capture_output=True, timeout=120)

    def digest(self, volume):
        disk = self.server.connect(volume)
        found = hashlib.sha256(b"".join(bytes(disk.pread(MIB, at)) for at in range(0, disk.get_size(), MIB))).hexdigest()
        disk.shutdown()
        return found

    def wait_closed(self):
        wait_for("all is closed", lambda: '"open_by": "' not in self.ctl("volume", "list", "--json"), 10)


def scribble(disk, seed, count):
    """Writes, zeroes and trims of all sizes."""
    chance = random.Random(seed)
    for _ in range(count):
        size = chance.choice((4 * KIB, 12 * KIB, 64 * KIB, MIB, 3 * MIB))
        offset = chance.randrange(0, SIZE - size, 4 * KIB)
        kind = chance.randrange(6)
        if kind == 0:
            disk.trim(size, offset)
        elif kind == 1:
            disk.zero(size, offset)
        else:
            disk.pwrite(chance.randbytes(size), offset)
    disk.flush()


class Test:
    def __init__(self, bin_dir):
        self.dir = lib.scratch_dir()
        self.here = Side(bin_dir, f"{self.dir}/a", "--create-volume", f"v={SIZE}")
        self.there = Side(bin_dir, f"{self.dir}/b")
        self.digests = {}

    def file(self, name):
        return f"{self.dir}/{name}.bak"

    def read(self, name):
        with open(self.file(name), "rb") as file:
            return file.read()

    def write(self, name, data):
        with open(self.file(name), "wb") as file:
            file.write(data)

    def make_chain(self):
        step("a volume in use, four snapshots, a full dump and three increments")
        disk = self.here.server.connect("v")
        for number in range(4):
            if number != 2:  # nothing happens between 1 and 2
                scribble(disk, number, 40 if number == 0 else 6)
            self.here.ctl("block", "snapshot", "create", f"v@s{number}")
            self.digests[number] = self.here.digest(f"v@s{number}")
            options = () if number == 0 else ("--from", f"s{number - 1}")
            said = self.here.ctl("block", "dump", "--format", "backup", *options, f"v@s{number}", self.file(f"s{number}"))
            assert f"dumped v@s{number}" in said, said
        disk.shutdown()
        sizes = [os.path.getsize(self.file(f"s{number}")) for number in range(4)]
        assert sizes[1] < sizes[0] / 2, sizes
        print("sizes of the backups in KiB:", [size // 1024 for size in sizes])

    def restores_each_state(self):
        step("each state comes back, in another cluster")
        self.there.ctl("block", "load", self.file("s0"), "copy")
        assert self.there.digest("copy") == self.digests[0]
        self.there.wait_closed()
        for number in range(1, 4):
            said = self.there.ctl("block", "load", self.file(f"s{number}"), "copy")
            assert f"which is copy@s{number} now" in said, said
            self.there.wait_closed()
            assert self.there.digest("copy") == self.digests[number], number
            assert self.there.digest(f"copy@s{number - 1}") == self.digests[number - 1]
            self.there.wait_closed()

    def pipes(self):
        step("through pipes, and from the first to the last at once")
        full = self.here.pipe(b"", "block", "dump", "--format", "backup", "v@s0", "-")
        assert full.returncode == 0 and full.stdout == self.read("s0"), full.stderr
        done = self.there.pipe(full.stdout, "block", "load", "-", "piped")
        assert done.returncode == 0, done.stderr
        jump = self.here.pipe(b"", "block", "dump", "--from", "s0", "v@s3", "-")
        done = self.there.pipe(jump.stdout, "block", "load", "-", "piped")
        assert done.returncode == 0, done.stderr
        assert self.there.digest("piped") == self.digests[3]
        self.there.wait_closed()
        raw = self.here.pipe(b"", "block", "dump", "v@s1", "-").stdout
        assert hashlib.sha256(raw).hexdigest() == self.digests[1]
        done = self.there.pipe(raw, "block", "load", "-", "raw", str(SIZE))
        assert done.returncode == 0 and self.there.digest("raw") == self.digests[1], done.stderr
        self.there.wait_closed()

    def resumed_dumps(self):
        step("a dump that was interrupted goes on, and ends with the same bytes")
        whole = self.read("s1")
        self.there.ctl("block", "load", self.file("s0"), "cuts")
        for size in (0, 1, 100, 141, 200, len(whole) // 2, len(whole) - 41, len(whole) - 1, len(whole)):
            self.write("cut", whole[:size])
            if size < len(whole):
                self.there.refuse("ends early", "block", "load", "--format", "backup", "--resume", self.file("cut"), "cuts")
            self.here.ctl("block", "dump", "--from", "s0", "--resume", "v@s1", self.file("cut"))
            assert self.read("cut") == whole, size
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        self.write("cut", damaged)
        self.here.ctl("block", "dump", "--from", "s0", "--resume", "v@s1", self.file("cut"))
        assert self.read("cut") == whole
        os.remove(self.file("cut"))
        self.here.ctl("block", "dump", "--from", "s0", "--resume", "v@s1", self.file("cut"))
        assert self.read("cut") == whole
        self.here.refuse("is not what this dump would be", "block", "dump", "--resume", "--from", "s1", "v@s2",
                         self.file("cut"))
        assert self.read("cut") == whole
        step("a full disk")
        self.here.refuse("No space left", "block", "dump", "--format", "backup", "v@s0", "/dev/full")
        limited = subprocess.run(["bash", "-c", 'trap "" XFSZ; ulimit -f 4096; exec "$@"', "-", *self.here.args(
            "block", "dump", "--format", "backup", "v@s0", self.file("limited"))], capture_output=True, text=True)
        assert limited.returncode != 0 and "--resume goes on with it" in limited.stderr, limited.stderr
        assert 0 < len(self.read("limited")) <= 4 * MIB
        said = self.here.ctl("block", "dump", "--format", "backup", "--resume", "v@s0", self.file("limited"))
        assert "resumed at byte" in said and self.read("limited") == self.read("s0"), said

    def refusals(self):
        step("what would go wrong is refused")
        self.there.refuse("was loaded before", "block", "load", self.file("s2"), "copy")
        self.there.refuse("no snapshot that came from it", "block", "load", self.file("s2"), "piped")
        self.there.refuse("'nothing'", "block", "load", self.file("s2"), "nothing")
        self.here.refuse("a backup is of a snapshot", "block", "dump", "--format", "backup", "v", self.file("x"))
        self.here.refuse("no snapshot 'none'", "block", "dump", "--from", "none", "v@s1", self.file("x"))
        self.here.refuse("a raw image has no increments", "block", "dump", "--format", "raw", "--from", "s0", "v@s1", "-")
        self.here.refuse("only a backup", "block", "dump", "--resume", "v@s1", self.file("x"))
        assert not os.path.exists(self.file("x"))
        self.write("both", self.read("s0") + self.read("s1"))
        self.there.refuse("goes on after the end", "block", "load", self.file("both"), "both")
        self.write("newer", self.read("s0")[:8] + b"\x02\x00" + self.read("s0")[10:])
        self.there.refuse("use a newer one", "block", "load", self.file("newer"), "newer")

    def interrupted_loads(self):
        step("a load that was interrupted can be repeated")
        damaged = bytearray(self.read("s1"))
        damaged[-60] ^= 1  # after most of it was written
        self.write("bad", damaged)
        self.there.ctl("volume", "clone", "copy@s0", "again")
        # A clone has no snapshots; the full backup into it makes one, over whatever it holds.
        self.there.ctl("block", "load", self.file("s0"), "again")
        self.there.refuse("damaged", "block", "load", self.file("bad"), "again")
        self.there.refuse("--resume sets it back", "block", "load", self.file("s1"), "again")
        self.there.ctl("block", "load", "--resume", self.file("s1"), "again")
        assert self.there.digest("again") == self.digests[1]
        self.there.wait_closed()
        step("a volume that was written since is not overwritten")
        disk = self.there.server.connect("again")
        disk.pwrite(b"mine" * 1024, 8 * KIB)
        disk.shutdown()
        self.there.wait_closed()
        self.there.refuse("first at byte 8192", "block", "load", self.file("s2"), "again")
        assert "load-" not in self.there.ctl("block", "snapshot", "list", "again")
        step("an interrupted full load is repeated over what it left")
        half = bytearray(self.read("s0"))
        half[len(half) // 2] ^= 1
        self.write("half", half)
        self.there.refuse("the new volume fresh is incomplete", "block", "load", self.file("half"), "fresh")
        self.there.ctl("block", "load", self.file("s0"), "fresh")
        assert self.there.digest("fresh") == self.digests[0]
        self.there.wait_closed()

    def back_home(self):
        step("an increment onto the volume that it came from, and one that grew")
        self.here.wait_closed()
        self.here.ctl("block", "snapshot", "restore", "v@s0")
        self.here.ctl("block", "snapshot", "delete", "v@s1")
        self.here.ctl("block", "load", self.file("s1"), "v")
        assert self.here.digest("v") == self.digests[1]
        self.here.wait_closed()
        self.here.ctl("volume", "resize", "v", str(SIZE + 32 * MIB))
        disk = self.here.server.connect("v")
        disk.pwrite(b"end" * 1000, SIZE + 31 * MIB)
        disk.shutdown()
        self.here.ctl("block", "snapshot", "create", "v@large")
        large = self.here.digest("v@large")
        # What was loaded into v is a state of its own with the same bytes: its increments start from there.
        self.here.ctl("block", "dump", "--from", "s0", "v@large", self.file("large"))
        self.there.ctl("block", "load", self.file("large"), "fresh")
        assert self.there.digest("fresh") == large
        self.there.wait_closed()
        step("one that was made smaller, then larger again")
        for name, size, since in (("small", 40 * MIB + 4096, "large"), ("again", SIZE + 32 * MIB, "small")):
            self.here.wait_closed()
            self.here.ctl("volume", "resize", "v", str(size), "--force")
            self.here.ctl("block", "snapshot", "create", f"v@{name}")
            self.here.ctl("block", "dump", "--from", since, f"v@{name}", self.file(name))
            self.there.ctl("block", "load", self.file(name), "fresh")
            self.there.wait_closed()
        assert self.there.digest("fresh") == self.here.digest("v")
        self.there.wait_closed()


def main():
    test = Test(sys.argv[1])
    test.make_chain()
    test.restores_each_state()
    test.pipes()
    test.resumed_dumps()
    test.refusals()
    test.interrupted_loads()
    test.back_home()
    test.here.server.stop()
    test.there.server.stop()
    print("passed")


if __name__ == "__main__":
    main()
