#!/usr/bin/python3
# Scenario 8: 200 volumes on one cluster, 20 of them open at once in one agroblock, each with a user
# who writes, reads and checks; then the agroblock is killed with -9 and another one takes all 20.
#
# Usage: many_volumes_test.py BIN_DIR [SEED]
import threading
import time

from cluster_lib import Cluster, arguments, step
from cluster_load import SLACK, Load
from agro_testlib import MIB

VOLUME_COUNT, OPEN_COUNT = 200, 20
SIZE = 8 * MIB  # of each that the users use
DEATH_BAR = 15.0  # seconds until they are open elsewhere


def memory_mib(process):
    with open(f"/proc/{process.pid}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) // 1024


def open_all(loads, client):
    """All at once; returns the seconds until the last was open."""
    def open_one(load):
        load.client, load.handles = client, []
        load.handles, _ = client.attach(load.volume)

    begun = time.monotonic()
    threads = [threading.Thread(target=open_one, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(load.handles for load in loads), "a volume did not open"
    return time.monotonic() - begun


def main():
    bin_dir, seed, _ = arguments()
    cluster = Cluster(bin_dir, peer_count=3, replication=2).start_peers()
    names = [f"volume-{number:03}" for number in range(VOLUME_COUNT)]
    step(f"{VOLUME_COUNT} volumes")
    begun = time.monotonic()
    for name in names:
        cluster.create_volume(name, "1GiB")
    print(f"made in {time.monotonic() - begun:.1f} s", flush=True)
    listed = [one["name"] for one in cluster.json("volume", "list")]
    assert sorted(listed) == names, f"{len(listed)} volumes are listed"

    step(f"{OPEN_COUNT} of them at once in one agroblock")
    client = cluster.start_client(1)
    chosen = names[::VOLUME_COUNT // OPEN_COUNT]
    loads = [Load(seed + number, client, name, SIZE, connections=1, depth=2) for number, name in enumerate(chosen)]
    took = open_all(loads, client)
    print(f"RESULT scenario 8, {OPEN_COUNT} of {VOLUME_COUNT} volumes opened at once: {took:.2f} s", flush=True)
    for load in loads:
        load.go_on()
        load.begin()
    time.sleep(20)
    writes = sum(load.oracle.write_count for load in loads)
    stalls = [load.end(f"scenario 8, user of {load.volume}") for load in loads]
    print(f"RESULT scenario 8, {OPEN_COUNT} users at once: {writes} writes in 20 s, longest stall of any "
          f"{max(stalls):.3f} s, agroblock {memory_mib(client)} MiB at most", flush=True)
    opened = [one["name"] for one in cluster.status()["volumes"] if one["open_by"] is not None]
    assert sorted(opened) == chosen, f"open are {opened}"

    step("agroblock is killed with -9; another one opens all 20")
    for load in loads:
        load.pause()
    client.kill()
    del cluster.clients[1]
    begun = time.monotonic()
    second = cluster.start_client(2)
    open_all(loads, second)
    took = time.monotonic() - begun
    print(f"RESULT scenario 8, {OPEN_COUNT} volumes opened elsewhere {took:.2f} s after kill -9, bar {DEATH_BAR} s",
          flush=True)
    assert took <= DEATH_BAR * SLACK
    for load in loads:
        load.oracle.check(load.handles[0])
        load.go_on()
    time.sleep(3)
    for load in loads:
        load.stop()
    cluster.wait_healthy(60)
    cluster.stop()


if __name__ == "__main__":
    main()
