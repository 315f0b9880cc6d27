#!/usr/bin/python3
# Scenario 4: three peers become six, one is replaced, four are left, two copies become three, while
# somebody writes all the time. After each step the blocks are spread as they should be, and no more
# than had to move has moved; in the end everything has its three copies.
#
# Method: a volume of known, quiet data makes the bytes comparable; another has the user.
# Usage: membership_test.py BIN_DIR [SEED]
import math
import time

from cluster_lib import Cluster, arguments, step
from cluster_load import Load
from agro_testlib import KIB, MIB

BLOCK = 64 * KIB
BULK = 640 * MIB
USED = 32 * MIB  # of the user's volume
STALL_BAR = 2.0
SHARE_BAR = 0.03  # of its share: the fullest peer
MOVED_BAR = 1.05  # of the least that must be copied


def fill(client, size, seed):
    """Writes `size` bytes, 1 MiB at a time, each of its own; returns a function that checks them through a handle."""
    def part(number):
        return (f"{seed}-{number:08}-".encode() * (MIB // 8))[:MIB]
    handle = client.connect("bulk")
    for number in range(size // MIB):
        handle.pwrite(part(number), number * MIB)
    handle.flush()
    handle.shutdown()

    def check(again):
        for number in range(size // MIB):
            assert bytes(again.pread(MIB, number * MIB)) == part(number), f"MiB {number} of bulk is wrong"
    return check


class Change:
    """One change of the ring: what it moved, and whether that was necessary."""

    def __init__(self, cluster, load, what):
        self.cluster, self.load, self.what = cluster, load, f"scenario 4, {what}"
        step(self.what)
        self.used = self.used_bytes()
        self.moved = self.moved_bytes()
        self.begun = time.monotonic()
        load.begin()

    def peers(self):
        return [(index, peer) for index, peer in enumerate(self.cluster.peers) if peer is not None]

    def used_bytes(self):
        return {index: peer.metric("agro_store_used_bytes") for index, peer in self.peers()}

    def moved_bytes(self):
        return sum(peer.metric("agro_rebalance_moved_bytes_total") for _, peer in self.peers())

    def settled(self):
        status = self.cluster.status()
        return status["healthy"] and status["ring"]["kind"] != "union"

    def finish(self, members):
        """Waits until all is in place, which is at `members` (indices)."""
        while not self.settled():
            self.load.watch(0.5)
            assert time.monotonic() < self.begun + 180, f"{self.what}: not settled:\n" + \
                self.cluster.agroctl("status", check=False).stdout
        took = time.monotonic() - self.begun
        self.load.watch(1)
        self.load.end(self.what, STALL_BAR)
        used = self.used_bytes()
        moved = self.moved_bytes() - self.moved
        least = sum(max(0, used[index] - self.used.get(index, 0)) for index in used)
        counts = {index: self.cluster.peer_view(index)["block_count"] for index in members}
        mean = sum(counts.values()) / len(counts)
        fullest = max(counts.values()) / mean - 1
        print(f"RESULT {self.what}: {took:.1f} s, moved {moved / MIB:.0f} MiB, the least is {least / MIB:.0f} MiB; "
              f"fullest peer {100 * fullest:+.1f} % of its share, blocks {counts}", flush=True)
        # Blocks fall into groups at random: of n of them a peer's share is off by sqrt(n), 3 times at most.
        assert fullest <= SHARE_BAR + 3 / math.sqrt(mean), f"{self.what}: {counts}"
        # The user's blocks come and go meanwhile: some are copied that are deleted a moment later.
        assert moved <= MOVED_BAR * least + 6 * USED, f"{self.what}: moved {moved} of {least}"
        elsewhere = [index for index, _ in self.peers() if index not in members]
        for index in elsewhere:
            left = self.cluster.peer_view(index)
            assert not left["in_ring"], f"peer {index + 1} is still in the ring"


def address(cluster, index):
    return f"adp://{cluster.peer_places[index].ip}:7000"


def stop_peer(cluster, index):
    assert cluster.peers[index].terminate() == 0
    cluster.peers[index] = None
    cluster.agroctl("peer", "remove", address(cluster, index))  # out of the ring and gone: forgotten


def main():
    bin_dir, seed, _ = arguments()
    cluster = Cluster(bin_dir, peer_count=3, replication=2, init_options=["--block-size", "64KiB"], peer_options=[])
    cluster.start_peers()
    cluster.agroctl("peer", "add", "--all-peers")
    cluster.create_volume("bulk", "1GiB")
    cluster.create_volume("demo", "256MiB")
    client = cluster.start_client()
    check_bulk = fill(client, BULK, seed)
    load = Load(seed, client, "demo", USED, depth=4, think=0.001).start()
    load.measure("scenario 4, undisturbed", 3)
    cluster.wait_healthy(60)

    change = Change(cluster, load, "3 peers become 6")
    cluster.grow(3, start=True)
    cluster.agroctl("peer", "add", "--all-peers")
    change.finish([0, 1, 2, 3, 4, 5])

    change = Change(cluster, load, "one of 6 is replaced: the new one is added")
    cluster.grow(1, start=True)
    cluster.agroctl("peer", "add", address(cluster, 6))
    change.finish([0, 1, 2, 3, 4, 5, 6])
    change = Change(cluster, load, "one of 6 is replaced: the old one is drained")
    cluster.agroctl("peer", "drain", address(cluster, 1))
    change.finish([0, 2, 3, 4, 5, 6])
    stop_peer(cluster, 1)

    change = Change(cluster, load, "6 peers become 4")
    cluster.agroctl("peer", "drain", address(cluster, 0), address(cluster, 2))
    change.finish([3, 4, 5, 6])
    stop_peer(cluster, 0)
    stop_peer(cluster, 2)
    load.verify().go_on()
    bulk = client.connect("bulk")
    check_bulk(bulk)

    change = Change(cluster, load, "2 copies become 3")
    cluster.agroctl("ring", "set-replication", 3)
    change.finish([3, 4, 5, 6])

    step("two of the four die, in three ways: everything is there")
    load.watch(1)
    for pair in ((3, 4), (5, 6), (4, 5)):
        load.pause()
        cluster.wait_healthy(60)
        for index in pair:
            cluster.kill_peer(index)
        load.verify()
        check_bulk(bulk)
        for index in pair:
            cluster.start_peer(index)
    bulk.shutdown()
    load.go_on()
    load.stop()
    cluster.wait_healthy(60)
    cluster.stop()


if __name__ == "__main__":
    main()
