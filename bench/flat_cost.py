#!/usr/bin/python3
"""Cost that stays flat: what a write costs whatever the volume's size, age, snapshots and background work.

Measures real processes over NBD (fio, libnbd) and prints a table: row, result, bar. Rows:
  amplify     bytes written to the stores per byte of the client and copy, for random 4 KiB writes: filling a volume,
              overwriting it at 70 % full while the cleaner works, and with a flush after each write
  age         random writes and reads of a volume overwritten five times against the same when it was fresh
  size        a write of 4 KiB and its flush on a volume of 1 GiB and on one of 1 TiB
  checkpoint  bytes of a checkpoint by map pages changed, on both
  snapshots   bytes and blocks of writes with no and with ten snapshots
  volumes     memory of one agroblock with 1,000 volumes open, each written and read
  background  the 99th percentile of users' reads and writes with a scrub, a rebalance or the cleaner at work

Times need a quiet machine; bytes do not. Takes some ten minutes, --quick two.
Example: bench/flat_cost.py build/bench/bin --quick --rows amplify,size
"""
import argparse
import json
import os
import random
import statistics
import sys
import time

from flat_rig import COPIES, ManyProcesses, OneProcess, fio, p99_ms
from agro_testlib import GIB, KIB, MIB, need_tools, scratch_dir, wait_for

PAGE = 4 * KIB
MAP_PAGE = 4 * MIB  # of the volume: what one page of its map covers


class Bench:
    def __init__(self, options):
        self.bin_dir, self.scratch = options.bin_dir, scratch_dir(options.dir)
        self.quick = options.quick
        self.size = (256 if self.quick else 1024) * MIB
        self.seconds = 4 if self.quick else 8
        self.results = []

    def add(self, row, value, text, bar=None, bar_text=""):
        """`bar`: the most (or with a minus sign, the least) that `value` may be."""
        missed = bar is not None and (value > bar if bar > 0 else value < -bar)
        self.results.append({"row": row, "value": round(value, 4), "text": text, "bar": bar_text, "missed": missed})
        print(f"{row:44} {text:58} {bar_text:18} {'MISSED' if missed else ''}", flush=True)

    def one(self, name, volumes, peer_bytes):
        return OneProcess(self.bin_dir, os.path.join(self.scratch, name), volumes, peer_bytes)

    def many(self, name, volumes, peer_bytes, wait=True):
        return ManyProcesses(self.bin_dir, os.path.join(self.scratch, name), volumes, peer_bytes, wait)

    def amplification(self, row, spent, bar=None):
        """Of the stores; of the processes as the kernel counted; and what of it cleaner and checkpoints took."""
        client = spent.user * COPIES
        self.add(row, spent.written / client,
                 f"{spent.written / client:.2f} (io {spent.io / client:.2f}; cleaned {spent.cleaned / spent.user:.2f}, "
                 f"checkpoints {spent.checkpoint / spent.user:.3f})", bar, f"at most {bar}" if bar else "")

    # --- amplify ---

    def amplify(self):
        rig = self.one("amplify", {"v": f"{self.size // MIB}MiB"}, int(self.size * COPIES / 0.7 / 3))
        uri = rig.uri("v")
        before = rig.counters()
        fio(uri, "randwrite", self.size, end_fsync=1, randseed=1)
        rig.wait_detached()
        self.amplification("filling, 4 KiB at random", rig.counters() - before, 1.15)
        full = self.size * COPIES / rig.metric("agro_space_size_bytes")
        fio(uri, "randwrite", self.size, norandommap=1, io_size=2 * self.size, randseed=2)
        before = rig.counters()
        job = fio(uri, "randwrite", self.size, norandommap=1, io_size=2 * self.size, randseed=3, end_fsync=1)
        spent = rig.counters() - before
        self.amplification(f"overwriting at {100 * full:.0f} % full", spent, 2.0)
        self.add("  its writes", job["write"]["iops"], f"{job['write']['iops']:,.0f}/s")
        rig.stop()
        self.amplify_flushed()

    def amplify_flushed(self):
        for depth, count in ((1, 4096 if self.quick else 16384), (16, 16384 if self.quick else 65536)):
            rig = self.one("flushed", {"v": f"{self.size // MIB}MiB"}, 2 * self.size)
            fio(rig.uri("v"), "write", self.size, bs="1m", depth=8, end_fsync=1)
            rig.wait_quiet("v")
            before = rig.counters()
            fio(rig.uri("v"), "randwrite", self.size, depth=depth, fsync=1, io_size=count * PAGE, randseed=4)
            self.amplification(f"a flush after each, {depth} at once", rig.counters() - before, 2.5)
            rig.wait_quiet("v")
            self.amplification("  and with all that follows, at rest", rig.counters() - before)
            rig.stop()

    # --- age ---

    def age(self):
        rig = self.one("age", {"v": f"{self.size // MIB}MiB"}, 4 * self.size)
        uri = rig.uri("v")
        fio(uri, "write", self.size, bs="1m", depth=8, end_fsync=1)
        rig.wait_quiet("v")
        fresh = {rw: self.speed(uri, rw) for rw in ("randwrite", "randread")}
        fio(uri, "randwrite", self.size, norandommap=1, io_size=5 * self.size, randseed=5)
        aged = {rw: self.speed(uri, rw) for rw in ("randwrite", "randread")}
        for rw, bar in (("randwrite", -0.7), ("randread", -0.7)):
            share = aged[rw] / fresh[rw]
            self.add(f"aged against fresh, {rw} 4 KiB", share,
                     f"{share:.2f} ({aged[rw]:,.0f} of {fresh[rw]:,.0f}/s)", bar, "at least 0.70")
        rig.stop()

    def speed(self, uri, rw):
        job = fio(uri, rw, self.size, norandommap=1, runtime=self.seconds, time_based=None, randseed=6)
        return job["write" if rw == "randwrite" else "read"]["iops"]

    # --- size ---

    def volumes_by_size(self):
        rig = self.one("size", {"small": "1GiB", "large": "1TiB"}, 4 * GIB)
        return rig, {"small": GIB, "large": 1024 * GIB}

    def by_size(self):
        rig, sizes = self.volumes_by_size()
        count = 1000 if self.quick else 3000  # fewer than make a checkpoint due
        times, cost = {name: [] for name in sizes}, {}
        for name, size in sizes.items():  # maps of the same number of pages in memory: only the size differs
            fio(rig.uri(name), "randwrite", size, norandommap=1, io_size=20000 * PAGE, randseed=7)
        for _ in range(3):
            for name, size in sizes.items():
                handle = rig.connect(name)
                before = rig.counters()
                took = flush_often(handle, size, count)
                spent = rig.counters() - before
                times[name].append(took)
                log = spent.written - spent.checkpoint * COPIES
                cost[name] = (log / count / COPIES, spent.blocks / count / COPIES)
                handle.shutdown()
                rig.wait_detached()
        small, large = (statistics.median(times[name]) for name in ("small", "large"))
        self.add("4 KiB and a flush, 1 TiB against 1 GiB: time", large / small,
                 f"{large / small:.2f} ({large * 1e6:.0f} us, {small * 1e6:.0f} us)", 1.2, "within noise")
        for index, what in enumerate(("bytes to a store", "blocks to a store")):
            values = [cost[name][index] for name in ("large", "small")]
            self.add(f"  {what}", values[0] / values[1], f"{values[0] / values[1]:.3f} ({values[0]:,.2f}, {values[1]:,.2f})",
                     1.01, "the same")
        rig.stop()

    # --- checkpoint ---

    def checkpoint(self):
        rig, sizes = self.volumes_by_size()
        for name, size in sizes.items():
            fio(rig.uri(name), "randwrite", size, norandommap=1, io_size=20000 * PAGE, randseed=7)
            rig.wait_detached()
        most = {}
        for pages in (0, 1, 10, 100):
            for name, size in sizes.items():
                cost = checkpoint_cost(rig, name, size, pages)
                most[name, pages] = cost
            self.add(f"a checkpoint, {pages} map pages changed", most["large", pages],
                     f"{most['large', pages] / KIB:,.0f} KiB at 1 TiB, {most['small', pages] / KIB:,.0f} KiB at 1 GiB")
        per_page = (most["large", 100] - most["large", 0]) / 100
        self.add("  a changed page of 1 TiB", per_page, f"{per_page / KIB:.1f} KiB", 16 * KIB, "at most 16 KiB")
        rig.stop()

    # --- snapshots ---

    def snapshots(self):
        rig = self.one("snapshots", {"v": f"{self.size // MIB}MiB"}, 8 * self.size)
        fio(rig.uri("v"), "randwrite", self.size, randseed=8)
        rig.wait_quiet("v")
        without = self.cost_of_writes(rig)
        for number in range(10):
            fio(rig.uri("v"), "randwrite", self.size, norandommap=1, io_size=self.size // 64, randseed=10 + number)
            rig.agroctl("block", "snapshot", "create", f"v@s{number}")
        rig.wait_quiet("v")
        with_ten = self.cost_of_writes(rig)
        for index, (what, unit) in enumerate((("bytes to stores per byte and copy", ""), ("blocks per MiB and copy", ""))):
            share = with_ten[index] / without[index]
            self.add(f"ten snapshots, {what}", share,
                     f"{share:.3f} ({with_ten[index]:.3f}{unit} with, {without[index]:.3f}{unit} without)", 1.02, "the same")
        rig.stop()

    def cost_of_writes(self, rig):
        handle = rig.connect("v")  # so that no attach or detach is in it
        before = rig.counters()
        fio(rig.uri("v"), "randwrite", self.size, norandommap=1, io_size=self.size // 8, randseed=9, end_fsync=1)
        spent = rig.counters() - before
        handle.shutdown()
        log = spent.written - (spent.checkpoint + spent.cleaned) * COPIES
        return log / spent.user / COPIES, spent.blocks / (spent.user / MIB) / COPIES

    # --- volumes ---

    def volumes(self):
        count = 200 if self.quick else 1000
        rig = self.many("volumes", {f"v{number}": "1GiB" for number in range(count)}, 4 * GIB, wait=False)
        client = rig.cluster.client.pid
        before = resident(client)
        handles = [rig.connect("v0")]
        for number in range(1, count):
            handles.append(rig.connect(f"v{number}"))
        opened = resident(client)
        block = random.Random(1).randbytes(MIB)
        for number, handle in enumerate(handles):
            handle.pwrite(block, number * PAGE)
            handle.flush()
            handle.pread(MIB, number * PAGE)
        used = resident(client)
        self.add(f"{count} volumes open in one agroblock", opened / MIB,
                 f"{opened / MIB:,.0f} MiB resident, {(opened - before) / count / KIB:,.0f} KiB each")
        self.add("  and each written, flushed and read", used / MIB, f"{used / MIB:,.0f} MiB, {(used - before) / count / KIB:,.0f} KiB each",
                 1024, "at most 1 GiB")
        time.sleep(12)  # volumes at rest give their buffers back at once
        rest = resident(client)
        self.add("  and at rest after that", rest / MIB, f"{rest / MIB:,.0f} MiB", 1024, "at most 1 GiB")
        for handle in handles:
            handle.shutdown()
        rig.stop()

    # --- background ---

    def background(self):
        rig = self.many("background", {"v": f"{self.size // MIB}MiB"}, int(self.size * COPIES / 0.7 / 3))
        fio(rig.uri("v"), "write", self.size, bs="1m", depth=8, end_fsync=1)
        rig.wait_quiet("v")
        quiet = self.foreground(rig, "nothing else", None, None)
        rig.agroctl("scrub", "start")
        self.foreground(rig, "a scrub", "scrubbed", quiet)
        rig.agroctl("scrub", "status", "--wait")
        # Twice over, so that space is short and the cleaner must keep pace with the load that follows at once.
        fio(rig.uri("v"), "randwrite", self.size, norandommap=1, io_size=2 * self.size, randseed=11)
        self.foreground(rig, "the cleaner", "cleaned", quiet)
        rig.wait_quiet("v")
        rig.add_peer()
        wait_for("blocks move", lambda: rig.counters().moved > 0, 30)
        self.foreground(rig, "a rebalance", "moved", quiet)
        rig.stop()

    def foreground(self, rig, what, counter, quiet):
        """Users with 8 requests at a time and 2,000 of each kind a second. Returns the p99 of both."""
        before = rig.counters()
        job = fio(rig.uri("v"), "randrw", self.size, depth=8, norandommap=1, rate_iops=2000, runtime=self.seconds,
                  time_based=None, randseed=12)
        spent = rig.counters() - before
        now = {kind: p99_ms(job, kind) for kind in ("read", "write")}
        rate = f", {getattr(spent, counter) / self.seconds / MIB:.0f} MiB/s of it" if counter else ""
        for kind, value in now.items():
            share = value / quiet[kind] if quiet else 1.0
            self.add(f"p99 of a {kind}, {what}", share, f"{value:.2f} ms ({share:.1f} x{rate})", 2.0 if quiet else None,
                     "at most 2.0 x" if quiet else "")
        assert counter is None or getattr(spent, counter) > 0, f"{what} did nothing meanwhile"
        return now


def resident(pid):
    """VmRSS of a process, bytes."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) * KIB for line in file if line.startswith("VmRSS:"))


def flush_often(handle, size, count):
    """Seconds that a write of 4 KiB at random and its flush take, the median."""
    places = random.Random(1)
    data = random.Random(2).randbytes(PAGE)
    times = []
    for _ in range(count):
        at = places.randrange(size // PAGE) * PAGE
        begin = time.perf_counter()
        handle.pwrite(data, at)
        handle.flush()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def checkpoint_cost(rig, name, size, pages):
    """Bytes of the checkpoint that a detach writes after so many pages of the map were changed."""
    handle = rig.connect(name)
    if pages == 0:
        handle.pwrite(bytes(PAGE), 0)  # of the same page each time: without any there is no checkpoint
    for number in range(pages):
        handle.pwrite(bytes([number % 255 + 1]) * PAGE, number * (size // MAP_PAGE // pages) * MAP_PAGE)
    handle.flush()
    before = rig.counters()
    handle.shutdown()
    rig.wait_detached()
    return (rig.counters() - before).checkpoint


ROWS = {"amplify": Bench.amplify, "age": Bench.age, "size": Bench.by_size, "checkpoint": Bench.checkpoint,
        "snapshots": Bench.snapshots, "volumes": Bench.volumes, "background": Bench.background}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="where agro, agroblock and agroctl are; a release build")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, by name (default: all)")
    parser.add_argument("--quick", action="store_true", help="volumes of 256 MiB instead of 1 GiB, shorter runs")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    parser.add_argument("--dir", help="directory for the stores' files (default: of AGRO_TEST_DIR or TMPDIR)")
    options = parser.parse_args()
    rows = options.rows.split(",")
    for row in rows:
        if row not in ROWS:
            parser.error(f"no row '{row}': there are {', '.join(ROWS)}")
    if not os.access(os.path.join(options.bin_dir, "agro"), os.X_OK):
        parser.error(f"no agro in {options.bin_dir}: build it first")
    need_tools("fio")
    bench = Bench(options)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, volumes of {bench.size // MIB} MiB, three stores, {COPIES} copies,"
          f" load {os.getloadavg()[0]:.1f}", flush=True)
    for row in rows:
        ROWS[row](bench)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(bench.results, file, indent=1)
    missed = [result["row"].strip() for result in bench.results if result["missed"]]
    print(f"missed: {'; '.join(missed) if missed else 'none'}")


if __name__ == "__main__":
    sys.exit(main())
