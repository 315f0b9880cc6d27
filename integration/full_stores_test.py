#!/usr/bin/python3
"""Stores that are full, and a file system that is.

Goal: writes wait, and go on when there is room; nothing flushed is lost on the way, neither by
kill -9 nor by a restart with larger stores; a stop while writes wait is quick and honest.
Method: numbered pages over libnbd; what was flushed is read back and compared.
Usage: full_stores_test.py BIN_DIR
"""
import os
import subprocess
import sys
import time

import agro_testlib as lib
from agro_cluster import Cluster
from agro_testlib import MIB, Standalone, step, wait_for

PAGE = 4096
STUCK_SECONDS = 3  # a request that takes longer waits for space
STOP_SECONDS = 15


def chunk(number, generation):
    """1 MiB whose every page says which it is."""
    words = (b"%16d%16d" % (number, generation)) * (PAGE // 32)
    return b"".join(words[:-8] + page.to_bytes(8, "little") for page in range(256))


class Writer:
    """Writes 1 MiB chunks, flushes every few, and knows what was flushed."""

    def __init__(self, server, volume, chunks, flush_every=8):
        self.server, self.volume, self.chunks = server, volume, chunks
        self.flush_every = flush_every
        self.written, self.flushed = {}, {}  # chunk -> generation: acknowledged; durable
        self.disk = server.connect(volume)
        self.pending = None  # (cookie, what to note when it completes)
        self.next = 0
        self.unfinished = set()  # chunks that an earlier writer was in the midst of

    def wait(self, seconds):
        """Whether the pending request ended within `seconds`."""
        cookie, done = self.pending
        deadline = time.monotonic() + seconds
        while not self.disk.aio_command_completed(cookie):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.disk.poll(max(1, int(left * 1000)))
        done()
        self.pending = None
        return True

    def send_write(self, generation):
        import nbd
        number = self.next % self.chunks
        buffer = nbd.Buffer.from_bytearray(bytearray(chunk(number, generation)))

        def done():
            self.written[number] = generation
        self.pending = (self.disk.aio_pwrite(buffer, number * MIB), done)
        self.next += 1

    def send_flush(self):
        durable = dict(self.written)
        self.pending = (self.disk.aio_flush(), lambda: self.flushed.update(durable))

    def run(self, generation, count):
        """Writes `count` chunks, or until a request waits. Returns whether it did all."""
        for _ in range(count):
            self.send_write(generation)
            if not self.wait(STUCK_SECONDS):
                return False
            if self.next % self.flush_every == 0:
                self.send_flush()
                if not self.wait(STUCK_SECONDS):
                    return False
        return True

    def check(self, server, acknowledged=False):
        """Each chunk holds what was flushed, or something written later; zeros when nothing was."""
        disk = server.connect(self.volume)
        least = self.written if acknowledged else self.flushed
        for number in range(self.chunks):
            data = bytes(disk.pread(MIB, number * MIB))
            legal = [least.get(number, -1), self.written.get(number, -1)]
            if self.pending is not None and (self.next - 1) % self.chunks == number:
                legal.append(max(legal) + 1)  # under way, perhaps in part
                legal.append(0)
            if not any(data == (chunk(number, each) if each >= 0 else bytes(MIB)) for each in legal):
                # Parts of an unfinished write are legal page by page.
                under_way = self.pending is not None and (self.next - 1) % self.chunks == number
                assert under_way or number in self.unfinished, \
                    f"chunk {number} is wrong: {data[:64]}, legal are generations {legal}"
        disk.shutdown()
        return len(least)


def suspended(server, volume):
    return server.metrics().get(f'agro_volume_suspended{{volume="{volume}"}}', 0)


def fill(bin_dir, data_dir, size="256MiB", more=()):
    """A server with full stores, `other` with 64 MiB, and the writer of `big` that waits."""
    server = Standalone(bin_dir, data_dir, "--size", size, "--create-volume", "big=1GiB",
                        "--create-volume", "other=64MiB", *more)
    other = Writer(server, "other", 64)
    assert other.run(0, 64)
    other.disk.shutdown()
    big = Writer(server, "big", 1024)
    assert not big.run(0, 1024), "a volume larger than the stores was written as a whole"
    wait_for("the metric says that writes wait", lambda: suspended(server, "big") == 1)
    print(f"    full after {len(big.written)} MiB, {len(big.flushed)} MiB of them flushed, stores use "
          f"{server.metric('agro_space_used_bytes') / MIB:.0f} of "
          f"{server.metric('agro_space_size_bytes') / MIB:.0f} MiB")
    return server, big, other


def deleting_frees(bin_dir, data_dir):
    step("full stores: writes wait, reads and other volumes go on")
    server, big, other = fill(bin_dir, data_dir)
    assert len(big.flushed) >= 200, "two copies of 264 MiB fit into 3 x 256 MiB"
    other.check(server)
    assert not big.wait(1), "a write went on without space"
    step("deleting another volume frees the space and the write goes on")
    wait_for("the other volume is closed", lambda: 'volume="other"' not in server.metrics_text())
    begin = time.monotonic()
    lib.run([os.path.join(bin_dir, "agroctl"), "-C", f"sqlite:{data_dir}/meta.db", "volume", "delete",
             "other"])
    assert big.wait(15), "the write still waits: " + server.log()[-1000:]
    print(f"    after {time.monotonic() - begin:.1f} s")
    assert not big.run(0, 1024)
    assert len(big.written) >= 300, f"only {len(big.written)} MiB"
    step("kill -9 while writes wait: what was flushed is there, with the same size and a larger one")
    server.kill()
    server = Standalone(bin_dir, data_dir, "--size", "256MiB")
    print(f"    {big.check(server)} MiB")
    server.kill()
    server = Standalone(bin_dir, data_dir, "--size", "1GiB")
    big.check(server)
    again = Writer(server, "big", 1024)
    assert again.run(0, 1024), "there is space for all of it now"
    again.send_flush()
    assert again.wait(20)
    again.check(server)
    again.disk.shutdown()
    server.stop()


def trimming_frees(bin_dir, data_dir):
    step("full stores: a trim of the same volume frees the space")
    server, big, _ = fill(bin_dir, data_dir)
    trimmer = server.connect("big")
    cookie = trimmer.aio_trim(128 * MIB, 0)
    for number in range(128):
        big.written.pop(number, None)
        big.flushed.pop(number, None)
    deadline = time.monotonic() + 15
    while not big.wait(0.2):
        trimmer.poll(10)
        assert time.monotonic() < deadline, "the write still waits: " + server.log()[-1000:]
    wait_for("the trim ends", lambda: trimmer.poll(10) or trimmer.aio_command_completed(cookie))
    trimmer.shutdown()
    big.send_flush()
    assert big.wait(10)
    assert big.check(server) >= 100
    server.stop()


def stop_while_waiting(bin_dir, data_dir):
    step(f"SIGTERM while writes wait ends within {STOP_SECONDS} s and loses nothing acknowledged")
    server, big, _ = fill(bin_dir, data_dir)
    begin = time.monotonic()
    status = server.terminate(STOP_SECONDS)
    print(f"    status {status} after {time.monotonic() - begin:.1f} s")
    if status != 0:
        assert status == 1 and "lost" in server.log().splitlines()[-1], server.log()[-1000:]
    server = Standalone(bin_dir, data_dir, "--size", "1GiB")
    big.check(server, acknowledged=status == 0)
    server.stop()


def stop_with_unstorable_data(bin_dir, data_dir):
    step("SIGTERM while acknowledged writes cannot be stored anywhere: an error that says so")
    cluster = Cluster(bin_dir, data_dir)
    cluster.start()
    cluster.create_volume("v", "64MiB")
    wait_for("the volume is served", lambda: can_connect(cluster, "v"))
    disk = cluster.connect("v")
    disk.pwrite(chunk(0, 0), 0)
    disk.flush()
    for peer in cluster.peers:
        peer.kill()
    for number in range(1, 5):
        disk.pwrite(chunk(number, 0), number * MIB)  # acknowledged by the write cache
    begin = time.monotonic()
    status = cluster.client.terminate(STOP_SECONDS + 5)
    last = cluster.client.log().splitlines()[-1]
    print(f"    status {status} after {time.monotonic() - begin:.1f} s: {last}")
    assert status == 1 and last.startswith("agroblock: ") and "lost" in last, cluster.client.log()
    for index in range(len(cluster.peers)):
        cluster.start_peer(index)
    cluster.start_client()
    wait_for("the volume is served", lambda: can_connect(cluster, "v"))
    disk = cluster.connect("v")
    assert bytes(disk.pread(MIB, 0)) == chunk(0, 0), "what was flushed is there"
    disk.shutdown()
    cluster.stop()


def can_connect(cluster, volume):
    import nbd
    try:
        cluster.connect(volume).shutdown()
        return True
    except nbd.Error:
        return False


class SmallFileSystem:
    """A tmpfs, mounted while the test runs."""

    def __init__(self, path, size_mib):
        self.path = path
        os.makedirs(path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "agro-test", path],
                              capture_output=True, text=True)
        self.mounted = done.returncode == 0
        if self.mounted:
            lib.at_exit(lambda: subprocess.run(["umount", "-l", path]))

    def resize(self, size_mib):
        subprocess.run(["mount", "-o", f"remount,size={size_mib}m", self.path], check=True)


def file_system_full(bin_dir, scratch):
    step("a full file system: writes wait, go on when it has room; nothing flushed is lost")
    disk = SmallFileSystem(os.path.join(scratch, "small"), 400)
    if not disk.mounted:
        print("    left out: mounting a tmpfs is not allowed here")
        return
    data_dir = os.path.join(disk.path, "d")
    server, big, _ = fill(bin_dir, data_dir, size="2GiB")
    big.check(server)
    assert not big.wait(1)
    disk.resize(800)
    assert big.wait(30), "the write still waits: " + server.log()[-1000:]
    before = len(big.written)
    big.run(0, 1024)
    assert len(big.written) > before + 50, f"{before} MiB, then {len(big.written)} MiB"
    step("and again: SIGTERM, then kill -9, while it is full")
    begin = time.monotonic()
    status = server.terminate(STOP_SECONDS)
    print(f"    status {status} after {time.monotonic() - begin:.1f} s: {server.log().splitlines()[-1]}")
    if status != 0:
        assert status == 1 and "lost" in server.log().splitlines()[-1], server.log()[-1000:]
    disk.resize(1200)
    server = Standalone(bin_dir, data_dir, "--size", "2GiB")
    wait_for("the volume can be opened", lambda: can_connect(server, "big"), interval=0.5)
    big.check(server, acknowledged=status == 0)
    again = Writer(server, "big", 1024)
    again.written, again.flushed = dict(big.written), dict(big.flushed)
    again.next = len(big.written) + 1
    again.unfinished = {(big.next - 1) % big.chunks} if big.pending is not None else set()
    again.run(0, 1024 - again.next)
    server.kill()
    disk.resize(1300)
    server = Standalone(bin_dir, data_dir, "--size", "2GiB")
    # The stores grow at once into what room there is, and give some back: for a moment the metadata
    # store may find none, and the volume cannot be opened.
    wait_for("the volume can be opened", lambda: can_connect(server, "big"), interval=0.5)
    again.check(server)
    server.stop()


def main():
    bin_dir = sys.argv[1]
    scratch = lib.scratch_dir()
    deleting_frees(bin_dir, os.path.join(scratch, "a"))
    trimming_frees(bin_dir, os.path.join(scratch, "b"))
    stop_while_waiting(bin_dir, os.path.join(scratch, "c"))
    stop_with_unstorable_data(bin_dir, os.path.join(scratch, "e"))
    file_system_full(bin_dir, scratch)
    print("ok")


main()
