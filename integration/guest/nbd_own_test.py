#!/usr/bin/python3
# `agroblock nbd` in a guest, with a cluster outside of it: etcd and three peers on a tap's network. Killed in the middle of writes,
# stopped while its device is mounted; the next one takes the device over, and no write fails.
#
# Usage: nbd_own_test.py BIN_DIR [FOLDER for kernel and tools]
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
from agro_testlib import step  # noqa: E402
from guest import TapCluster, prepare  # noqa: E402


def main():
    bin_dir = os.path.abspath(sys.argv[1])
    folder = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(bin_dir, "..", "guest"))
    step("kernel, initrd, tools")
    prepare(folder, bin_dir)
    step("etcd and three peers")
    cluster = TapCluster(bin_dir)
    cluster.agroctl("volume", "create-block", "demo", "256MiB")
    step("the guest boots")
    guest = cluster.boot(folder, os.path.join(HERE, "nbd_own.sh"))
    assert guest.wait(300) == 0, "the guest's script failed"
    step("passed")


main()
