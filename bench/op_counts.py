#!/usr/bin/python3
"""What one operation of 4 KiB costs: instructions, allocations, coroutine frames, copies and system calls.

Starts three `agro` and one `agroblock nbdserve` twice and drives them over NBD (libnbd, this process). The first time under
callgrind: instructions and coroutine frames, without busy polling. The second time as they are: system calls (perf, the
tracepoint raw_syscalls:sys_enter), allocations, and copies by memcpy of at least 4096 bytes (bench/op_counts.c, preloaded).
Counters are read before and after the operations, and the cost of starting is not in them. The peers' figures are those of all
three together, for each operation of the client; two of the three hold a copy of each block.

A flush is a write with its flush less a write. Needs root (for perf), valgrind, linux-perf, gcc and python3-libnbd.
Takes two minutes. Example: bench/op_counts.py build/bench/bin
"""
import argparse
import os
import random
import re
import struct
import subprocess
import sys
import time

from flat_rig import lib
from agro_cluster import Cluster
from agro_testlib import MIB, need_tools, scratch_dir, wait_for

PAGE = 4096
SIZE = 128 * MIB  # of the volume: 32 times the read cache
CACHED = MIB // 2
CALLS = re.compile(r"calls=(\d+)")
NAME = re.compile(r"\((\d+)\)(?: (.*))?")
FRAME = re.compile(r"awaitable_frame_base<.*>::operator new")
HERE = os.path.dirname(os.path.abspath(__file__))


class Callgrind:
    """Processes under callgrind; between begin() and end() it counts."""
    columns = ("instructions", "frames")
    options = ("--busy-poll", "0")

    def __init__(self, directory):
        self.directory = directory

    def command(self, args):
        return ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.directory}/callgrind.%p", *args]

    def environment(self):
        return None

    def begin(self, processes):
        for process in processes:
            self.control("-z", process)

    def end(self, processes):
        return [self.counts(process) for process in processes]

    def control(self, option, process):
        lib.run(["callgrind_control", option, process.pid])

    def counts(self, process):
        before = self.dumps(process)
        self.control("-d", process)
        (path,) = self.dumps(process) - before
        return parse_profile(os.path.join(self.directory, path))

    def dumps(self, process):
        return {name for name in os.listdir(self.directory) if name.startswith(f"callgrind.{process.pid}.")}


def parse_profile(path):
    """(instructions, calls of the allocator of coroutine frames) of a callgrind profile."""
    names, callee, frames, instructions = {}, "", 0, 0
    with open(path, errors="replace") as file:
        for line in file:
            if line.startswith(("fn=", "cfn=")):
                number, name = NAME.match(line.split("=", 1)[1].rstrip("\n")).groups()
                name = names.setdefault(number, name or "")
                callee = name if line[0] == "c" else callee
            elif line.startswith("calls="):
                frames += int(CALLS.match(line).group(1)) if FRAME.search(callee) else 0
            elif line.startswith(("totals:", "summary:")):
                instructions = int(line.split()[1])
    assert instructions > 0, f"{path} has no totals"
    return instructions, frames


class Native:
    """Processes with a counting library; system calls by perf."""
    columns = ("allocations", "allocated bytes", "copies", "copied bytes", "system calls")
    options = ()

    def __init__(self, directory):
        self.directory = directory
        self.library = os.path.join(directory, "op_counts.so")
        lib.run(["gcc", "-O2", "-fno-builtin", "-shared", "-fPIC", "-o", self.library, os.path.join(HERE, "op_counts.c")])
        self.before, self.perfs = [], []

    def command(self, args):
        return args

    def environment(self):
        return {**os.environ, "LD_PRELOAD": self.library, "AGRO_OP_COUNTS": self.directory}

    def begin(self, processes):
        self.perfs = [subprocess.Popen(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(process.pid)],
                                       stderr=subprocess.PIPE, text=True) for process in processes]
        time.sleep(0.5)  # perf says nothing when it has begun
        self.before = [self.counters(process) for process in processes]

    def end(self, processes):
        after = [self.counters(process) for process in processes]
        calls = []
        for perf in self.perfs:
            perf.send_signal(2)
            text = perf.communicate(timeout=20)[1]
            calls.append(next(int(line.split(",")[0]) for line in text.splitlines() if "sys_enter" in line))
        return [(*(b - a for a, b in zip(*both)), each) for *both, each in zip(self.before, after, calls)]

    def counters(self, process):
        with open(os.path.join(self.directory, str(process.pid)), "rb") as file:
            return struct.unpack("<4Q", file.read(32))


class Operations:
    """What the client does, each kind after preparations that are not counted."""

    def __init__(self, handle, count):
        self.handle, self.count = handle, count
        self.random = random.Random(1)
        self.data = self.random.randbytes(PAGE)

    def fill(self):
        for offset in range(0, SIZE, MIB):
            self.handle.pwrite(self.random.randbytes(MIB), offset)
        self.handle.flush()

    def place(self, size=SIZE):
        return self.random.randrange(size // PAGE) * PAGE

    def write_q1(self):
        for _ in range(self.count):
            self.handle.pwrite(self.data, self.place())

    def at_once(self, start):
        """`count` requests, 32 at a time."""
        left, under_way = self.count, 0

        def done(_error):
            nonlocal under_way
            under_way -= 1
            return 1  # libnbd retires it

        while left or under_way:
            while left and under_way < 32:
                left, under_way = left - 1, under_way + 1
                start(done)
            self.handle.poll(-1)

    def write_q32(self):
        import nbd
        buffer = nbd.Buffer.from_bytearray(bytearray(self.data))
        self.at_once(lambda done: self.handle.aio_pwrite(buffer, self.place(), done))

    def write_flush(self):
        for _ in range(self.count):
            self.handle.pwrite(self.data, self.place())
            self.handle.flush()

    def read_cached(self):
        for _ in range(self.count):
            self.handle.pread(PAGE, self.place(CACHED))

    def read_peer(self):
        for _ in range(self.count):
            self.handle.pread(PAGE, self.place())

    def read_peer_q32(self):
        import nbd
        self.at_once(lambda done: self.handle.aio_pread(nbd.Buffer(PAGE), self.place(), done))

    def warm(self):
        for _ in range(4):
            for offset in range(0, CACHED, PAGE):
                self.handle.pread(PAGE, offset)


KINDS = (("write, q1", Operations.write_q1), ("write, q32", Operations.write_q32), ("write and flush", Operations.write_flush),
         ("read from cache", Operations.read_cached), ("read from a peer, q1", Operations.read_peer),
         ("read from a peer, q32", Operations.read_peer_q32))


def measure(options, meter, directory, count):
    """{kind: (client's figures, peers' figures)}, each for one operation."""
    start = lib.Process.__init__

    def start_measured(self, args, log_path, env=None):
        start(self, meter.command(args), log_path, env or meter.environment())

    lib.Process.__init__ = start_measured
    cluster = Cluster(options.bin_dir, directory, peer_size="1GiB", peer_options=("--scrub-interval", "never", *meter.options),
                      client_options=meter.options)
    cluster.create_volume("v", f"{SIZE // MIB}MiB")
    for index in range(3):
        cluster.start_peer(index, wait=False)
    for peer in cluster.peers:
        wait_for("a peer is ready", peer.ready, timeout=60)
    cluster.start_client()
    handle = wait_for("the volume can be opened", lambda: connected(cluster), 60)
    operations = Operations(handle, count)
    operations.fill()
    results = {}
    for kind, operate in KINDS:
        if operate is Operations.read_cached:
            handle.flush()
            operations.warm()
        processes = [cluster.client, *cluster.peers]
        meter.begin(processes)
        operate(operations)
        client, *peers = meter.end(processes)
        results[kind] = ([value / count for value in client], [sum(values) / count for values in zip(*peers)])
    results["flush"] = tuple([a - b for a, b in zip(*both)] for both in zip(results["write and flush"], results["write, q1"]))
    handle.shutdown()
    for process in cluster.processes():
        process.terminate(timeout=120)
    lib.Process.__init__ = start
    return results


def connected(cluster):
    try:
        return cluster.connect("v")
    except Exception:  # libnbd's own type; the deadline of wait_for reports it
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="where agro, agroblock and agroctl are; a release build")
    parser.add_argument("--count", type=int, default=2000, help="operations of each kind (default: 2000; natively ten times that)")
    options = parser.parse_args()
    need_tools("valgrind", "perf", "gcc")
    scratch = scratch_dir()
    profiled = measure(options, Callgrind(scratch), os.path.join(scratch, "profiled"), options.count)
    native = measure(options, Native(scratch), os.path.join(scratch, "native"), 10 * options.count)
    print(f"| | {' | '.join((*Callgrind.columns, *Native.columns))} |")
    for kind in [kind for kind, _ in KINDS] + ["flush"]:
        for side, who in enumerate(("client", "peers")):
            instructions, frames = profiled[kind][side]
            values = [f"{instructions:,.0f}", f"{frames:.2f}", *(f"{value:,.2f}" for value in native[kind][side])]
            print(f"| {kind}, {who} | {' | '.join(values)} |")


if __name__ == "__main__":
    sys.exit(main())
