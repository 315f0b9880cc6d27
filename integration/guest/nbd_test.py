#!/usr/bin/python3
# The kernel's NBD client, in a guest: `agroblock nbd` with four connections, ext4, fio's verification, fstrim, e2fsck;
# then the serving agroblock is killed and started again in the middle of writes, and no write fails; then the volume grows.
#
# Usage: nbd_test.py BIN_DIR [FOLDER for kernel and tools]
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
from agro_cluster import Cluster  # noqa: E402
from agro_testlib import MIB, http_get, parse_metrics, scratch_dir, step  # noqa: E402
from guest import HOST, Guest, prepare  # noqa: E402

PORT = 10909
DOWN_SECONDS = 3


def main():
    bin_dir = os.path.abspath(sys.argv[1])
    folder = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(bin_dir, "..", "guest"))
    step("kernel, initrd, tools")
    prepare(folder, bin_dir)
    cluster = Cluster(bin_dir, os.path.join(scratch_dir(), "c"), client_options=["-l", f"tcp:127.0.0.1:{PORT}"]).start()
    cluster.create_volume("demo", "256MiB")
    step("the guest boots")
    guest = Guest(folder, os.path.join(HERE, "nbd.sh"),
                  {"AGROBLOCK_OPTIONS": f"--server tcp:{HOST}:{PORT}", "GROWN_SIZE": 384 * MIB})
    guest.wait_for_line("READY_FOR_FAULTS", 240)
    connections = parse_metrics(http_get(cluster.metrics_socket))["agro_nbd_connections"]
    assert connections == 4, f"{connections} connections"
    time.sleep(2)  # into the writes
    step("agroblock is killed")
    cluster.client.kill()
    time.sleep(DOWN_SECONDS)
    cluster.start_client()
    step("agroblock is back")
    guest.wait_for_line("READY_TO_GROW", 240)
    slowest = int(guest.wait_for_line("SLOWEST_WRITE_TENTHS=", 1).split("=")[1]) / 10
    assert slowest >= DOWN_SECONDS - 1, f"the slowest write took {slowest} s: was there an outage at all?"
    assert slowest <= 20, f"the slowest write took {slowest} s: requests of dead connections were not sent again"
    step(f"no write failed, the slowest took {slowest} s")
    cluster.agroctl("volume", "resize", "demo", "384MiB")
    assert guest.wait(120) == 0, "the guest's script failed"
    cluster.stop()
    step("passed")


main()
