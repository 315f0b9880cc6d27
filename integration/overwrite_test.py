#!/usr/bin/python3
"""A volume overwritten eight times at random, on stores of twice its size (3 peers, 2 copies).

Goal: the cleaner keeps up: writes never stop for want of space, what is read is what was written
last, and soon after the load the stores use less than 1.5 x live x copies.
Method: fio's own verify over its nbd engine, mixed block sizes; the store's metrics meanwhile.
Usage: overwrite_test.py BIN_DIR [--full]     --full: 1 GiB overwritten with 8 GiB; otherwise 192 MiB
"""
import hashlib
import json
import os
import subprocess
import sys
import time

import agro_testlib as lib
from agro_testlib import MIB, Process, Standalone, step

COPIES = 2
SETTLE_SECONDS = 60
PROGRESS_SECONDS = 10  # no write may wait longer


def fio_args(server, size_mib, scratch):
    common = ["--ioengine=nbd", f"--uri={server.uri('v')}", "--rw=randwrite", "--iodepth=32",
              f"--size={size_mib}m", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"]
    # fio forgets a block that another overlaps: what it verifies of mixed sizes is a sample. The
    # last pass writes every 4 KiB once in random order and verifies all of them.
    return ["fio", "--output-format=json", f"--output={scratch}/fio.json",
            "--name=mixed", *common, "--bssplit=4k/40:16k/30:64k/30", "--norandommap=1",
            "--serialize_overlap=1", f"--io_size={7 * size_mib}m", "--randseed=7",
            "--name=last", *common, "--bs=4k", "--randseed=8", "--stonewall"]


def used(metrics):
    return metrics["agro_space_used_bytes"]


def load(server, size_mib, scratch):
    """Runs fio to its end and watches: no stall, no failure."""
    fio = Process(fio_args(server, size_mib, scratch), f"{scratch}/fio.log")
    peak, longest_stall, before, moved_at = 0, 0.0, None, time.monotonic()
    while fio.alive():
        metrics = server.metrics()
        peak = max(peak, used(metrics))
        written = metrics.get("agro_volume_written_bytes_total", 0)
        now = time.monotonic()
        reading = metrics.get("agro_volume_read_bytes_total", 0)
        if (written, reading) != before:
            before, moved_at = (written, reading), now
        longest_stall = max(longest_stall, now - moved_at)
        assert longest_stall < PROGRESS_SECONDS, f"no write for {longest_stall:.1f} s: {metrics}"
        assert metrics.get('agro_volume_failed{volume="v"}', 0) == 0, server.log()
        time.sleep(0.1)
    assert fio.wait() == 0, f"fio: {fio.log()}"
    with open(f"{scratch}/fio.json") as file:
        text = file.read()
    for job, passes in zip(json.loads(text[text.index("{"):])["jobs"], (7, 1), strict=True):
        write, read = job["write"], job["read"]
        assert job["error"] == 0 and write["io_bytes"] >= passes * size_mib * MIB, job
        assert read["io_bytes"] >= (size_mib * MIB if passes == 1 else 1), "too little verified"
        print(f"    {job['jobname']}: {write['io_bytes'] / MIB:.0f} MiB at {write['bw'] / 1024:.0f} "
              f"MiB/s, {write['iops']:.0f}/s, slowest {write['clat_ns']['max'] / 1e9:.2f} s; "
              f"verified {read['io_bytes'] / MIB:.0f} MiB at {read['bw'] / 1024:.0f} MiB/s")
    print(f"    longest time without a write {longest_stall:.1f} s,"
          f" cleaned {server.metric('agro_volume_cleaned_bytes_total') / MIB:.0f} MiB,"
          f" peak {peak / MIB:.0f} of {server.metric('agro_space_size_bytes') / MIB:.0f} MiB")
    waits = server.log().count("writes wait for space")
    print(f"    writes waited for space {waits} times")


def settle(server):
    """Polls until the stores use less than 1.5 x live x copies."""
    disk = server.connect("v")  # the volume stays attached, idle
    begin = time.monotonic()
    while True:
        metrics = server.metrics()
        live = metrics['agro_volume_mapped_bytes{volume="v"}']
        ratio = used(metrics) / live / COPIES
        seconds = time.monotonic() - begin
        if ratio < 1.5:
            break
        assert seconds < SETTLE_SECONDS, f"{ratio:.2f} x live after {seconds:.0f} s: {metrics}"
        time.sleep(0.1)
    print(f"    {ratio:.2f} x live x copies after {seconds:.1f} s")
    disk.shutdown()


def checksum(server):
    digest = hashlib.sha256()
    with subprocess.Popen(["nbdcopy", server.uri("v"), "-"], stdout=subprocess.PIPE) as copy:
        while part := copy.stdout.read(MIB):
            digest.update(part)
    assert copy.returncode == 0
    return digest.hexdigest()


def main():
    lib.need_tools("fio", "nbdcopy")
    bin_dir = sys.argv[1]
    size_mib = 1024 if "--full" in sys.argv[2:] else 192
    scratch = lib.scratch_dir()
    data_dir = os.path.join(scratch, "d")
    options = ["--size", f"{2 * size_mib}MiB", "--create-volume", f"v={size_mib}MiB"]
    server = Standalone(bin_dir, data_dir, *options)
    step(f"{size_mib} MiB overwritten with {8 * size_mib} MiB")
    load(server, size_mib, scratch)
    step("the space settles")
    settle(server)
    step("all of it is the same after kill -9")
    before = checksum(server)
    server.kill()
    server = Standalone(bin_dir, data_dir, *options)
    assert checksum(server) == before
    server.stop()
    print("ok")


main()
