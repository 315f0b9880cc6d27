#!/usr/bin/python3
# Scenario 2: one of three peers, with three copies, is stopped with SIGSTOP for 60 s: it is up, and
# silent. The user waits once and briefly, and goes on with two copies. When the peer goes on it is
# repaired: it alone has everything then.
#
# Usage: silent_peer_test.py BIN_DIR [SEED]
from cluster_lib import Cluster, arguments, step
from cluster_load import Load

STALL_BAR = 2.0  # seconds, of issue 3
SILENCE = 60.0
VOLUME = "demo"


def main():
    bin_dir, seed, _ = arguments()
    cluster = Cluster(bin_dir, peer_count=3, replication=3).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.measure("scenario 2, undisturbed", 3)

    step(f"peer 1 is silent for {SILENCE:.0f} s")
    load.measure("scenario 2, SIGSTOP of one of three peers", 20, cluster.peers[0].pause, STALL_BAR)
    status = cluster.agroctl("status", check=False)
    assert status.returncode != 0, f"a peer is silent, and status says all is well:\n{status.stdout}"
    load.measure("scenario 2, the rest of the silence", SILENCE - 20, bar=STALL_BAR)
    load.measure("scenario 2, SIGCONT", 5, cluster.peers[0].resume, STALL_BAR)

    step("it is repaired while writing goes on")
    print(f"RESULT scenario 2, repaired {cluster.wait_healthy():.1f} s later", flush=True)
    load.verify()
    for index in (1, 2):
        cluster.kill_peer(index)
    load.verify()
    print("it alone has everything", flush=True)
    for index in (1, 2):
        cluster.start_peer(index)
    load.go_on()
    load.watch(2)
    print(f"healthy {cluster.wait_healthy():.1f} s after the others were back", flush=True)
    load.stop()
    cluster.stop()


if __name__ == "__main__":
    main()
