#!/usr/bin/python3
# `agroblock aoe` with an initiator of our own over a veth pair, in a network namespace of the test: discovery, identity,
# reads and writes with 28 and 48 bits, jumbo frames, many tags, retransmits, bad frames, config string, reservations and
# masks; then kill -9 after an answered write.
#
# Usage: aoe_test.py BIN_DIR          needs root
import os
import random
import select
import socket
import struct
import sys
import time

from agro_cluster import Cluster
from agro_testlib import MIB, Process, at_exit, http_get, need_tools, parse_metrics, run, scratch_dir, skip, step, wait_for

ETHERTYPE, SHELF, SLOT, SECTOR = 0x88A2, 7, 2, 512
ATA, CONFIG, MASK, RESERVE = 0, 1, 2, 3
READ, READ_EXT, WRITE, WRITE_EXT, FLUSH, IDENTIFY = 0x20, 0x24, 0x30, 0x34, 0xE7, 0xEC
SIZE = 64 * MIB


class Initiator:
    """Sends requests on an interface and gathers the answers by tag."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        self.socket.bind((interface, 0))
        self.address = self.socket.getsockname()[4]
        self.target = b"\xff" * 6
        self.tag = 0

    def frame(self, command, argument, tag=None, major=SHELF, minor=SLOT, version=1, source=None):
        if tag is None:
            self.tag += 1
            tag = self.tag
        head = self.target + (source or self.address) + struct.pack(">HBBHBBI", ETHERTYPE, version << 4, 0, major, minor, command, tag)
        return tag, head + argument

    def send(self, frame):
        self.socket.send(frame)

    def receive(self, timeout):
        """(flags, error, tag, argument) of the next answer, or None."""
        deadline = time.monotonic() + timeout
        while True:
            ready, _, _ = select.select([self.socket], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                return None
            frame = self.socket.recv(65536)
            version_flags, error, major, minor, _, tag = struct.unpack(">BBHBBI", frame[14:24])
            if version_flags & 0x08 and frame[:6] in (self.address, b"\xff" * 6):
                assert (major, minor) == (SHELF, SLOT)
                self.target = frame[6:12]
                return version_flags & 0x0F, error, tag, frame[24:]

    def ask(self, command, argument, timeout=5.0, **more):
        """Retransmits once a second, as initiators do. Returns (error, argument)."""
        tag, frame = self.frame(command, argument, **more)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.send(frame)
            again = time.monotonic() + 1
            while (answer := self.receive(max(0, again - time.monotonic()))) is not None:
                if answer[2] == tag:
                    return answer[1], answer[3]
        raise AssertionError(f"no answer to command {command} within {timeout} s")

    def silent(self, command, argument, **more):
        _, frame = self.frame(command, argument, **more)
        self.send(frame)
        return self.receive(0.3) is None

    def ata(self, command, lba=0, count=0, data=b"", timeout=5.0):
        flags = (0x40 if command in (READ_EXT, WRITE_EXT) else 0) | (1 if data else 0)
        error, argument = self.ask(ATA, ata_argument(command, lba, count, data, flags), timeout)
        assert error == 0, f"AoE error {error}"
        assert argument[3] == 0x40, f"ATA status {argument[3]:#x}, error {argument[1]:#x}"
        return argument[12:12 + (512 if command == IDENTIFY else count * SECTOR)]


def ata_argument(command, lba, count, data=b"", flags=0):
    return struct.pack("<BBBBIHH", flags, 0, count, command, lba & 0xFFFFFFFF, lba >> 32, 0) + data


def config(command, text=b""):
    return struct.pack(">HHBBH", 0, 0, 0, 0x10 | command, len(text)) + text


class Target(Process):
    def __init__(self, cluster, namespace, *options):
        self.metrics_socket = os.path.join(cluster.dir, "aoe.metrics")
        super().__init__(["ip", "netns", "exec", namespace, os.path.join(cluster.bin_dir, "agroblock"), "-C", cluster.metadata, "aoe",
                          "demo", "agro1", str(SHELF), str(SLOT), "--metrics", f"unix:{self.metrics_socket}", *options],
                         os.path.join(cluster.dir, "aoe.log"))
        wait_for("the target serves", lambda: self.serves(), 20)

    def serves(self):
        assert self.alive(), f"agroblock aoe ended: {self.log()[-1000:]}"
        try:
            return "agro_aoe_requests_total" in http_get(self.metrics_socket)
        except OSError:
            return False

    def metric(self, name):
        return parse_metrics(http_get(self.metrics_socket))[name]


def veth():
    """A pair of interfaces, one of them in a namespace; both are gone with the test."""
    namespace = f"agroaoe{os.getpid()}"
    run(["ip", "netns", "add", namespace])
    at_exit(lambda: run(["ip", "netns", "del", namespace], check=False))
    near = f"aoe{os.getpid() % 100000}"
    run(["ip", "link", "add", near, "type", "veth", "peer", "name", "agro1", "netns", namespace])
    run(["ip", "link", "set", near, "up"])
    run(["ip", "-n", namespace, "link", "set", "agro1", "up"])
    return namespace, near


def discovery(initiator):
    error, answer = initiator.ask(CONFIG, config(0), major=0xFFFF, minor=0xFF)
    buffers, _, sectors, _, size = struct.unpack(">HHBBH", answer[:8])
    assert (error, buffers, sectors, size) == (0, 128, 2, 0), (error, buffers, sectors, size)
    identity = initiator.ata(IDENTIFY, count=1)
    assert struct.unpack("<Q", identity[200:208])[0] == SIZE // SECTOR
    model = b"".join(identity[54 + i + 1:54 + i + 2] + identity[54 + i:54 + i + 1] for i in range(0, 40, 2))
    assert model.strip() == b"agro demo", model


def reads_and_writes(initiator):
    for read, write, lba in ((READ, WRITE, 33), (READ_EXT, WRITE_EXT, SIZE // SECTOR - 2)):
        data = os.urandom(2 * SECTOR)
        initiator.ata(write, lba, 2, data)
        assert initiator.ata(read, lba, 2) == data
    initiator.ata(FLUSH)
    error, answer = initiator.ask(ATA, ata_argument(READ_EXT, SIZE // SECTOR, 1, flags=0x40))
    assert error == 0 and answer[3] == 0x41 and answer[1] == 0x10, "read beyond the end"


def jumbo(initiator, namespace, near):
    run(["ip", "link", "set", near, "mtu", "9000"])
    run(["ip", "-n", namespace, "link", "set", "agro1", "mtu", "9000"])
    _, answer = initiator.ask(CONFIG, config(0))
    assert answer[4] == 17, f"{answer[4]} sectors a frame"
    data = os.urandom(17 * SECTOR)
    initiator.ata(WRITE_EXT, 1000, 17, data)
    assert initiator.ata(READ_EXT, 1000, 17) == data


def many_tags(initiator, target):
    """Hundreds of writes in flight, each frame sent twice, all answered; then all of it is read back."""
    before = target.metric("agro_volume_flushes_total")
    chooser = random.Random(1)
    content, waiting = {}, {}
    pending = [(lba, chooser.randbytes(8 * SECTOR)) for lba in range(2000, 2000 + 300 * 8, 8)]
    deadline = time.monotonic() + 60
    while pending or waiting:
        assert time.monotonic() < deadline, f"{len(waiting)} writes without an answer"
        while pending and len(waiting) < 100:
            lba, data = pending.pop()
            content[lba] = data
            tag, frame = initiator.frame(ATA, ata_argument(WRITE_EXT, lba, 8, data, 0x41))
            waiting[tag] = frame
            initiator.send(frame)
            initiator.send(frame)
        answer = initiator.receive(1.0)
        if answer is None:
            for frame in waiting.values():
                initiator.send(frame)
        elif answer[2] in waiting:
            assert answer[3][3] == 0x40
            del waiting[answer[2]]
    while initiator.receive(0.2) is not None:
        pass
    flushes = target.metric("agro_volume_flushes_total") - before
    assert flushes < 250, f"{flushes} flushes for 300 writes that came together"
    print(f"300 writes (600 frames), {flushes} flushes, {target.metric('agro_aoe_repeated_total')} frames seen again in flight", flush=True)
    for lba, data in content.items():
        assert initiator.ata(READ_EXT, lba, 8) == data


def bad_frames(initiator, target):
    before = target.metric("agro_aoe_malformed_total")
    assert initiator.silent(ATA, b"")
    assert initiator.silent(ATA, ata_argument(WRITE, 0, 2, b"x" * 10, 1))
    assert initiator.silent(CONFIG, config(0)[:3])
    assert initiator.silent(ATA, ata_argument(READ, 0, 1), major=0xFFFF, minor=0xFF), "nobody reads all disks"
    assert target.metric("agro_aoe_malformed_total") >= before + 3
    assert initiator.silent(CONFIG, config(0), minor=SLOT + 1), "for another slot: the kernel drops it"
    assert initiator.ask(9, b"")[0] == 1, "an unknown command"
    assert initiator.ask(CONFIG, config(0), version=3)[0] == 5, "another version"
    noise = random.Random(2)
    for _ in range(2000):
        _, frame = initiator.frame(noise.randrange(5), noise.randbytes(noise.randrange(80)))
        initiator.send(frame)
    while initiator.receive(0.3) is not None:
        pass
    # Noise may have reserved the target, masked hosts, or named it.
    target.terminate()


def config_string(initiator):
    assert initiator.ask(CONFIG, config(4, b"shelf of the test"))[0] == 0
    assert initiator.ask(CONFIG, config(3, b"another"))[0] == 4
    assert initiator.ask(CONFIG, config(1, b"shelf of the test"))[1][8:25] == b"shelf of the test"
    assert initiator.silent(CONFIG, config(1, b"shelf"))
    assert initiator.ask(CONFIG, config(2, b"shelf"))[0] == 0


def reservations_and_masks(initiator):
    other = b"\x52\x54\x00\x00\x00\x09"
    assert initiator.ask(RESERVE, b"\x02\x01" + other)[0] == 0
    assert initiator.ask(ATA, ata_argument(READ, 0, 1))[0] == 6, "reserved for another"
    assert initiator.ask(RESERVE, b"\x01\x01" + initiator.address)[0] == 6
    assert initiator.ask(RESERVE, b"\x02\x00")[0] == 0
    initiator.ata(READ, 0, 1)
    assert initiator.ask(MASK, b"\x00\x01\x00\x01" + b"\x00\x01" + initiator.address)[1][3] == 1
    assert initiator.silent(CONFIG, config(0), source=other), "masked"
    assert initiator.ask(MASK, b"\x00\x01\x00\x01" + b"\x00\x02" + initiator.address)[1][3] == 0


def survives_kill(initiator, cluster, namespace, target):
    data = os.urandom(17 * SECTOR)
    initiator.ata(WRITE_EXT, 5000, 17, data)
    target.kill()
    target = Target(cluster, namespace)
    assert initiator.ata(READ_EXT, 5000, 17, timeout=30) == data
    assert initiator.ask(CONFIG, config(0))[1][8:25] == b"shelf of the test"
    return target


def main():
    need_tools("ip")
    if os.geteuid() != 0:
        skip("needs root, for packet sockets and a network namespace")
    bin_dir = os.path.abspath(sys.argv[1])
    cluster = Cluster(bin_dir, os.path.join(scratch_dir(), "c"))
    for index in range(3):
        cluster.start_peer(index, wait=False)
    for peer in cluster.peers:
        wait_for("a peer is ready", peer.ready, 20)
    cluster.create_volume("demo", "64MiB")
    namespace, near = veth()
    target = Target(cluster, namespace)
    initiator = Initiator(near)
    step("discovery, identity")
    discovery(initiator)
    step("reads and writes, jumbo frames")
    reads_and_writes(initiator)
    jumbo(initiator, namespace, near)
    step("many tags in flight")
    many_tags(initiator, target)
    step("bad frames")
    bad_frames(initiator, target)
    target = Target(cluster, namespace)
    step("config string, reservations, masks")
    config_string(initiator)
    reservations_and_masks(initiator)
    step("kill -9")
    target = survives_kill(initiator, cluster, namespace, target)
    assert target.terminate() == 0, target.log()
    refused = run(["ip", "netns", "exec", namespace, os.path.join(bin_dir, "agroblock"), "-C", cluster.metadata, "aoe", "demo",
                   "nosuch0", "1", "1"], check=False)
    assert refused.returncode == 1 and "nosuch0" in refused.stderr, refused.stderr
    cluster.stop()
    step("passed")


main()
