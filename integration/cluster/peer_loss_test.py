#!/usr/bin/python3
# Scenario 1: five peers, three copies; one peer is killed with -9, then a second. The user sees no
# error and hardly a stall; what is lost comes back when they do; any two others may go then.
#
# Usage: peer_loss_test.py BIN_DIR [SEED]
from cluster_lib import Cluster, arguments, step
from cluster_load import Load

STALL_BAR = 0.5  # seconds, of issue 3
VOLUME = "demo"


def main():
    bin_dir, seed, _ = arguments()
    cluster = Cluster(bin_dir, peer_count=5, replication=3).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    load = Load(seed, cluster.start_client(), VOLUME).start()
    load.measure("scenario 1, undisturbed", 3)

    step("one of five peers is killed with -9, then a second")
    load.measure("scenario 1, kill -9 of one of five peers", 12, lambda: cluster.kill_peer(0), STALL_BAR)
    load.measure("scenario 1, kill -9 of a second", 12, lambda: cluster.kill_peer(1), STALL_BAR)
    load.verify().go_on()
    status = cluster.agroctl("status", check=False)
    assert status.returncode != 0, f"two dead peers, and status says all is well:\n{status.stdout}"

    step("both come back, and everything has three copies again")
    for index in (0, 1):
        load.measure(f"scenario 1, peer {index + 1} comes back", 3, lambda index=index: cluster.start_peer(index), STALL_BAR)
    print(f"healthy {cluster.wait_healthy(120):.1f} s after both were back", flush=True)

    step("two others are killed at once: what the first two hold now is enough")
    load.measure("scenario 1, kill -9 of two at once", 8, lambda: [cluster.kill_peer(2), cluster.kill_peer(3)], STALL_BAR)
    load.verify().go_on()
    load.stop()
    cluster.start_peer(2)
    cluster.start_peer(3)
    cluster.wait_healthy(120)
    cluster.stop()


if __name__ == "__main__":
    main()
