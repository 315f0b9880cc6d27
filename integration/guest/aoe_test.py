#!/usr/bin/python3
# The kernel's AoE driver, in a guest on a tap with jumbo frames: `agroblock aoe`, ext4, fio's verification, e2fsck; then the
# target is killed and started again in the middle of writes, and no write fails.
#
# Usage: aoe_test.py BIN_DIR [FOLDER for kernel and tools]
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
from agro_cluster import Cluster  # noqa: E402
from agro_testlib import Process, at_exit, run, scratch_dir, skip, step, wait_for  # noqa: E402
from guest import Guest, prepare  # noqa: E402

MTU, DOWN_SECONDS = 9000, 3


def serve(cluster, namespace):
    target = Process(["ip", "netns", "exec", namespace, os.path.join(cluster.bin_dir, "agroblock"), "-C", cluster.metadata, "aoe", "demo",
                      "tap0", "7", "2"], os.path.join(cluster.dir, "aoe.log"))
    wait_for("the target serves", lambda: "serving" in target.log() or not target.alive(), 20)
    assert target.alive(), target.log()
    return target


def main():
    if os.geteuid() != 0:
        skip("needs root, for a network namespace")
    if not os.path.exists("/dev/net/tun"):
        skip("there are no taps here (/dev/net/tun)")
    bin_dir = os.path.abspath(sys.argv[1])
    folder = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(bin_dir, "..", "guest"))
    step("kernel, initrd, tools")
    prepare(folder, bin_dir)
    cluster = Cluster(bin_dir, os.path.join(scratch_dir(), "c"))
    for index in range(3):
        cluster.start_peer(index, wait=False)
    for peer in cluster.peers:
        wait_for("a peer is ready", peer.ready, 20)
    cluster.create_volume("demo", "256MiB")
    namespace = f"agroguest{os.getpid()}"
    run(["ip", "netns", "add", namespace])
    at_exit(lambda: run(["ip", "netns", "del", namespace], check=False))
    run(["ip", "-n", namespace, "tuntap", "add", "dev", "tap0", "mode", "tap"])
    run(["ip", "-n", namespace, "link", "set", "tap0", "mtu", str(MTU), "up"])
    target = serve(cluster, namespace)
    step("the guest boots")
    # With two processors the kernel's driver stalls at times when they are emulated.
    guest = Guest(folder, os.path.join(HERE, "aoe.sh"), tap="tap0", mtu=MTU, cpus=1, namespace=namespace)
    guest.wait_for_line("READY_FOR_FAULTS", 240)
    time.sleep(2)  # into the writes
    step("agroblock is killed")
    target.kill()
    time.sleep(DOWN_SECONDS)
    target = serve(cluster, namespace)
    step("agroblock is back")
    assert guest.wait(240) == 0, "the guest's script failed"
    slowest = int(guest.wait_for_line("SLOWEST_WRITE_TENTHS=", 1).split("=")[1]) / 10
    assert slowest >= DOWN_SECONDS - 1, f"the slowest write took {slowest} s: was there an outage at all?"
    step(f"no write failed, the slowest took {slowest} s")
    assert target.terminate() == 0, target.log()
    cluster.stop()
    step("passed")


main()
