#!/usr/bin/python3
# Scenario 5: etcd dies for less than the lease, for 10 s, and for longer than the lease; then a
# three-node etcd loses its leader. What is shorter than the lease the user never notices; longer, and
# I/O is suspended, fails nobody, and goes on when etcd is back. At last etcd comes back with nothing, and
# the cluster is rebuilt from its running peers.
#
# Usage: etcd_loss_test.py BIN_DIR [SEED]
import shutil
import time

from cluster_lib import LEASE, Cluster, arguments, step
from cluster_load import Load

UNNOTICED = 0.5  # seconds: the bar for what nobody should notice
RESUME_BAR = 5.0  # seconds from etcd's return until I/O goes on
VOLUME = "demo"


def outage(cluster, load, seconds, bar):
    """etcd is killed for so long. Returns the seconds without I/O beyond its return."""
    what = f"scenario 5, etcd killed for {seconds:.0f} s"
    step(what)
    load.begin()
    load.watch(0.5)
    cluster.etcd.kill()
    load.watch(seconds)
    cluster.etcd.start_server(0)
    back = time.monotonic()
    while load.oracle.last_completion < back:
        load.watch(0.05)
    resumed = load.oracle.last_completion - back
    load.watch(5)
    load.end(what, bar)
    assert resumed <= RESUME_BAR * 2, f"{what}: no I/O until {resumed:.1f} s after its return"
    print(f"RESULT {what}: I/O {resumed:.2f} s after its return", flush=True)
    print(f"healthy {cluster.wait_healthy(60):.1f} s later", flush=True)


def single(bin_dir, seed):
    cluster = Cluster(bin_dir, etcd_count=1, peer_count=3, replication=2).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.measure("scenario 5, undisturbed", 3)
    outage(cluster, load, 5, UNNOTICED)
    outage(cluster, load, 10, UNNOTICED)
    outage(cluster, load, 2 * LEASE + 5, None)
    load.stop()
    cluster.stop()


def three(bin_dir, seed):
    cluster = Cluster(bin_dir, etcd_count=3, peer_count=3, replication=2).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.watch(1)
    for _ in range(2):
        leader = cluster.etcd.leader()
        load.measure("scenario 5, the leader of three etcd servers killed", 15,
                     lambda leader=leader: cluster.etcd.kill(leader), UNNOTICED)
        cluster.etcd.start_server(leader)
        load.watch(3)
    cluster.wait_healthy(60)
    load.stop()
    cluster.stop()


def lost(bin_dir, seed):
    """etcd's data are gone for good, and the peers run on."""
    step("scenario 5, etcd loses its data")
    cluster = Cluster(bin_dir, etcd_count=1, peer_count=3, replication=2).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.watch(3)
    status = cluster.status()
    old = load.abandon()
    cluster.clients[1].kill()
    del old
    cluster.etcd.kill()
    shutil.rmtree(f"{cluster.etcd.dir}/e1")
    cluster.etcd.start()
    peers = [word for peer in status["peers"] for word in ("--peer", f"{peer['id']}@{peer['addresses'][0]}")]
    begun = time.monotonic()
    print(cluster.agroctl("metadata", "rebuild", "--cluster-id", status["cluster"]["id"], "--block-size",
                          status["cluster"]["block_size_bytes"], *peers).stdout, flush=True)
    print(f"RESULT scenario 5, rebuilt in {time.monotonic() - begun:.2f} s", flush=True)
    for index in range(len(cluster.peers)):
        assert cluster.peers[index].terminate(30) == 0, cluster.peers[index].log()[-3000:]
    cluster.start_peers()
    client = cluster.start_client()
    handles, _ = client.attach(VOLUME)
    load.oracle.check(handles[0], crashed=True)
    load.take_over(client, handles)
    load.watch(3)
    print(f"healthy {cluster.wait_healthy(60):.1f} s later", flush=True)
    load.stop()
    cluster.stop()


def main():
    bin_dir, seed, _ = arguments()
    single(bin_dir, seed)
    three(bin_dir, seed + 1)
    lost(bin_dir, seed + 2)


if __name__ == "__main__":
    main()
