#!/usr/bin/python3
# Scenario 3: in network namespaces. One peer is cut off; the client is cut off from etcd only; the
# client is cut off from everything, its volume is opened elsewhere, and it comes back: it is fenced,
# and the new one has everything that was flushed. How long opening elsewhere takes after a death, and
# after a clean end.
#
# Usage: network_test.py BIN_DIR [SEED]     (root: it makes network namespaces)
import time

from cluster_lib import LEASE, Cluster, Namespaces, arguments, nbd, step, wait_for
from cluster_load import Load, SLACK

SILENT_BAR = 2.0  # seconds: a peer that is cut off is as silent as a stopped one
UNNOTICED = 0.5
DEATH_BAR, CLEAN_BAR = 15.0, 1.0  # seconds until the volume is open elsewhere
VOLUME = "demo"


def peer_cut_off(cluster, load):
    step("one peer of three is cut off for 20 s")
    load.measure("scenario 3, one peer cut off", 20, lambda: cluster.net.cut("peer1"), SILENT_BAR)
    load.measure("scenario 3, its network heals", 5, lambda: cluster.net.heal("peer1"), SILENT_BAR)
    print(f"healthy {cluster.wait_healthy(90):.1f} s later", flush=True)


def cut_from_etcd(cluster, load):
    step("the client is cut off from etcd only, for 5 s and for longer than its lease")
    net = cluster.net

    def short():
        net.cut_between("client1", "etcd1")
        load.watch(5)
        net.heal_between("client1", "etcd1")
    load.measure("scenario 3, the client cut off from etcd for 5 s", 12, short, UNNOTICED)
    load.begin()
    net.cut_between("client1", "etcd1")
    load.watch(2 * LEASE + 5)
    net.heal_between("client1", "etcd1")
    healed = time.monotonic()
    wait_for("I/O goes on after etcd is in reach again", lambda: load.oracle.last_completion > healed, 30)
    print(f"RESULT scenario 3, the client cut off from etcd for {2 * LEASE + 5:.0f} s: "
          f"I/O {load.oracle.last_completion - healed:.2f} s after the heal", flush=True)
    load.watch(2)
    load.end("scenario 3, the client cut off from etcd beyond its lease")


def refuses(handle):
    """A write and flush through a fenced device must fail; returns the error, None while it hangs or works."""
    try:
        handle.pwrite(bytes(4096), 0)
        handle.flush()
    except nbd.Error as error:
        return error
    raise AssertionError("the old client flushed a write after another one had the volume")


def cut_from_everything(cluster, load):
    step("the client is cut off from everything; another one opens the volume; the network heals")
    cluster.net.cut("client1")
    cut = time.monotonic()
    second = cluster.start_client(2)
    load.watch(1)
    old = load.abandon()
    handles, _ = second.attach(VOLUME, timeout=60)
    took = time.monotonic() - cut
    print(f"RESULT scenario 3, opened elsewhere {took:.2f} s after the client was cut off, bar {DEATH_BAR} s", flush=True)
    assert took <= DEATH_BAR * SLACK
    load.oracle.check(handles[0])
    print("everything that was flushed is there", flush=True)
    load.take_over(second, handles)
    load.watch(3)
    cluster.net.heal("client1")
    error = refuses(old[0])
    print(f"the old client says {error}", flush=True)
    wait_for("the old client says that it is fenced", lambda: "fenced" in cluster.clients[1].log(), 10)
    load.watch(2)
    load.verify()
    print("and wrote nothing to it", flush=True)
    del old[:]
    cluster.clients.pop(1).kill()
    return load


def reattach(cluster, load):
    step("the client dies with kill -9; another one opens the volume")
    load.go_on()
    load.watch(2)
    load.may_die = True
    cluster.clients[2].kill()
    died = time.monotonic()
    load.thread.join(30)
    del cluster.clients[2]
    third = cluster.start_client(3)
    handles, _ = third.attach(VOLUME, timeout=60)
    took = time.monotonic() - died
    print(f"RESULT scenario 3, opened elsewhere {took:.2f} s after kill -9 of the client, bar {DEATH_BAR} s", flush=True)
    assert took <= DEATH_BAR * SLACK
    load.oracle.check(handles[0])
    load.may_die = False
    load.take_over(third, handles)
    load.watch(2)

    step("the client ends cleanly; another one opens the volume")
    fourth = cluster.start_client(4)
    load.stop()
    assert cluster.clients.pop(3).terminate() == 0
    ended = time.monotonic()
    handles, _ = fourth.attach(VOLUME)
    took = time.monotonic() - ended
    print(f"RESULT scenario 3, opened elsewhere {took:.2f} s after a clean end, bar {CLEAN_BAR} s", flush=True)
    assert took <= CLEAN_BAR * SLACK
    load.oracle.check(handles[0], crashed=False)
    load.take_over(fourth, handles)
    load.watch(1)


def main():
    bin_dir, seed, _ = arguments()
    cluster = Cluster(bin_dir, net=Namespaces(), peer_count=3, replication=2).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.measure("scenario 3, undisturbed", 3)
    peer_cut_off(cluster, load)
    cut_from_etcd(cluster, load)
    load = cut_from_everything(cluster, load)
    reattach(cluster, load)
    load.stop()
    cluster.stop()


if __name__ == "__main__":
    main()
