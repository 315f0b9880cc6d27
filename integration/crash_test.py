#!/usr/bin/python3
# Everything is killed with -9 in the middle of writes and flushes, at random moments, many times.
# After each restart nothing that was flushed is missing, every unit holds a legal value, and the
# volume attaches in under 5 s. First `agro standalone`, then three peers and agroblock; then fio.
#
# Usage: crash_test.py BIN_DIR [SEED]     (also AGRO_SEED; the seed in use is printed)
import os
import random
import sys
import threading
import time

from agro_testlib import MIB, Standalone, need_tools, run, scratch_dir, skip, step

try:
    import nbd
except ImportError:
    skip("python3-libnbd is not installed for /usr/bin/python3")
from agro_cluster import Cluster
from agro_oracle import Oracle

ATTACH_LIMIT = 5.0  # seconds, of issue 2
VOLUME, SIZE = "demo", 64 * MIB


def attach(server, count):
    """`count` connections; the first is tried until the volume attaches."""
    deadline = time.monotonic() + 30
    handles = []
    while not handles:
        try:
            handles.append(server.connect(VOLUME))
        except nbd.Error as error:
            if not server.alive() or time.monotonic() > deadline:
                raise AssertionError(f"{VOLUME} does not attach: {error}\n{server.log()[-4000:]}")
            time.sleep(0.005)
    return handles + [server.connect(VOLUME) for _ in range(count - 1)]


def crash_rounds(start, rounds, oracle, rng):
    """`start()` starts everything and returns an object with connect(), alive(), log(), kill()."""
    slowest = 0.0
    for number in range(rounds):
        if number % 5 == 4:  # once more, this time while it starts or attaches
            server = start()
            time.sleep(rng.uniform(0, 0.15))
            server.kill()
        begun = time.monotonic()
        server = start()
        handles = attach(server, count=2)
        took = time.monotonic() - begun
        slowest = max(slowest, took)
        assert took < ATTACH_LIMIT, f"round {number}: attached after {took:.2f} s"
        oracle.check(handles[0])
        oracle.bulk = number % 3 == 2
        killed = threading.Event()

        def kill(server=server, killed=killed):
            killed.set()
            server.kill()
        timer = threading.Timer(rng.uniform(0.05, 2.5 if oracle.bulk else 1.5), kill)
        timer.start()
        oracle.run(handles, seconds=30, may_die=killed.is_set)
        timer.join()
        assert oracle.dead, "the server outlived kill -9"
        print(f"round {number}: attached in {took:.3f} s{', bulk' if oracle.bulk else ''}; {oracle.summary()}", flush=True)
    server = start()
    handles = attach(server, count=2)
    oracle.check(handles[0])
    oracle.run(handles, seconds=0.5)
    oracle.check(handles[0], crashed=False)
    print(f"{rounds} rounds: slowest attach {slowest:.3f} s; {oracle.summary()}", flush=True)
    return server


def main():
    bin_dir = sys.argv[1]
    need_tools("fio")
    seed = int(sys.argv[2] if len(sys.argv) > 2 else os.environ.get("AGRO_SEED", time.time_ns() % 10**9))
    print(f"seed {seed}; again with: AGRO_SEED={seed}", flush=True)
    rng = random.Random(seed)
    scratch = scratch_dir()

    step("agro standalone, killed 20 times")
    options = ["--size", "4GiB", "--read-cache", "4MiB", "--create-volume", f"{VOLUME}=256MiB"]
    server = crash_rounds(lambda: Standalone(bin_dir, f"{scratch}/alone", *options), 20,
                          Oracle(rng.random(), SIZE), rng)

    step("fio verifies random writes with fsync")
    run(["fio", "--name=verify", "--ioengine=nbd", f"--uri={server.uri(VOLUME)}", f"--offset={SIZE}",
         "--size=48M", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--fsync=16", "--verify=crc32c",
         "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"])
    server.stop()

    step("three agro processes and agroblock, killed together 4 times")
    cluster = Cluster(bin_dir, f"{scratch}/three")
    cluster.create_volume(VOLUME, "256MiB")
    crash_rounds(cluster.start, 4, Oracle(rng.random(), SIZE), rng)
    cluster.stop()


if __name__ == "__main__":
    main()
