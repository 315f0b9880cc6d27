#!/usr/bin/python3
# `agroblock nbd` in a guest, with a cluster outside of it: etcd and three peers on a tap's network. Killed in the middle of writes,
# stopped while its device is mounted; the next one takes the device over, and no write fails.
#
# Usage: nbd_own_test.py BIN_DIR [FOLDER for kernel and tools]
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
from agro_testlib import Process, at_exit, need_tools, run, scratch_dir, skip, step, wait_for  # noqa: E402
from guest import Guest, prepare  # noqa: E402

HOST, GUEST, ETCD = "10.99.0.1", "10.99.0.2", "10.99.0.1:2379"


def main():
    need_tools("etcd")
    if os.geteuid() != 0:
        skip("needs root, for a network namespace")
    if not os.path.exists("/dev/net/tun"):
        skip("there are no taps here (/dev/net/tun)")
    bin_dir = os.path.abspath(sys.argv[1])
    folder = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(bin_dir, "..", "guest"))
    step("kernel, initrd, tools")
    prepare(folder, bin_dir)
    directory, namespace = scratch_dir(), f"agroown{os.getpid()}"
    run(["ip", "netns", "add", namespace])
    at_exit(lambda: run(["ip", "netns", "del", namespace], check=False))
    run(["ip", "-n", namespace, "link", "set", "lo", "up"])
    run(["ip", "-n", namespace, "tuntap", "add", "dev", "tap0", "mode", "tap"])
    run(["ip", "-n", namespace, "addr", "add", f"{HOST}/24", "dev", "tap0"])
    run(["ip", "-n", namespace, "link", "set", "tap0", "up"])
    inside = ["ip", "netns", "exec", namespace]
    step("etcd and three peers")
    Process([*inside, "etcd", "--data-dir", f"{directory}/etcd", "--listen-client-urls", f"http://{ETCD}",
             "--advertise-client-urls", f"http://{ETCD}", "--listen-peer-urls", f"http://{HOST}:2380"], f"{directory}/etcd.log")
    agroctl = [*inside, os.path.join(bin_dir, "agroctl"), "--etcd", ETCD]
    wait_for("etcd answers", lambda: run([*agroctl, "init", "--replication", "2"], check=False).returncode == 0, 30, 0.5)
    for number in range(1, 4):
        Process([*inside, os.path.join(bin_dir, "agro"), "--etcd", ETCD, "--data-dir", f"{directory}/peer{number}", "--peer-address",
                 f"adp://{HOST}:{7000 + number}", "--size", "2GiB", "--auto-join"], f"{directory}/peer{number}.log")
    wait_for("three peers", lambda: run([*agroctl, "peer", "list"], check=False).stdout.count("adp://") == 3, 30, 0.5)
    run([*agroctl, "volume", "create-block", "demo", "256MiB"])
    step("the guest boots")
    guest = Guest(folder, os.path.join(HERE, "nbd_own.sh"), {"GUEST_ADDRESS": f"{GUEST}/24", "ETCD": ETCD}, tap="tap0",
                  namespace=namespace)
    assert guest.wait(300) == 0, "the guest's script failed"
    step("passed")


main()
