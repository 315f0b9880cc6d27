#!/usr/bin/env python3
# Goal: the disk engine on real devices: what is flushed is there after kill -9, nothing of others is
# overwritten, and whatever is wrong is said in a line that tells what to do.
# Method: agro standalone with two loop devices and a preallocated file; then files in the data directory with
# either engine in turn; each wrong start must end at once with its line.
# Usage: disk_test.py BIN_DIR (as root: without, the devices are files)
import ctypes
import os
import random
import struct
import subprocess
import sys

from agro_testlib import MIB, Standalone, at_exit, run, scratch_dir, step

BIN = os.path.abspath(sys.argv[1])
SIZE = 64 * MIB
libc = ctypes.CDLL(None, use_errno=True)


def make_file(path, size):
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


def make_device(path, size):
    """A loop device over a new file; the file itself where there are none."""
    make_file(path, size)
    if os.geteuid() != 0:
        return path
    made = run(["losetup", "--find", "--show", "--direct-io=on", path], check=False)
    if made.returncode != 0:
        print(f"no loop device: {made.stderr.strip()}; a file instead", flush=True)
        return path
    device = made.stdout.strip()
    at_exit(lambda: run(["losetup", "-d", device], check=False))
    return device


def options(devices, *more):
    args = ["--storage", "disk", "--create-volume", f"demo={SIZE}", *more]
    for device in devices:
        args += ["--device", device]
    return args


def refused(data_dir, args, *texts, forbid_uring=False):
    """Starts it, and it must end at once with an error that says all of `texts` in one line."""
    ended = subprocess.run([os.path.join(BIN, "agro"), "standalone", "--data-dir", data_dir, *args],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
                           preexec_fn=no_uring if forbid_uring else None)
    lines = [line for line in ended.stderr.splitlines() if all(text in line for text in texts)]
    assert ended.returncode == 1 and lines, (texts, ended.returncode, ended.stderr)
    print("   ", lines[-1], flush=True)


def no_uring():
    """From here on io_uring_setup fails with EPERM, as in many containers (seccomp)."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("HBBI", *each) for each in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head, 0, 0) == 0


class Model:
    """What the volume must hold."""

    def __init__(self):
        self.rng = random.Random(5)
        self.bytes = bytearray(SIZE)

    def write(self, server):
        """Random writes, some tiny and flushed one by one; returns the connection: no detach, no checkpoint."""
        disk = server.connect("demo")
        for _ in range(60):
            size = self.rng.randrange(1, self.rng.choice((2, 200))) * 4096
            offset = self.rng.randrange(0, (SIZE - size) // 4096) * 4096
            data = self.rng.randbytes(size)
            disk.pwrite(data, offset)
            self.bytes[offset:offset + size] = data
            if size <= 8192:
                disk.flush()
        disk.flush()
        return disk

    def check(self, server):
        disk = server.connect("demo")
        for offset in range(0, SIZE, 4 * MIB):
            assert disk.pread(4 * MIB, offset) == self.bytes[offset:offset + 4 * MIB], offset
        disk.shutdown()


def on_devices(base):
    data_dir = os.path.join(base, "cluster")
    devices = [make_device(f"{base}/one", 256 * MIB), make_device(f"{base}/two", 256 * MIB),
               make_file(f"{base}/three", 256 * MIB)]
    step(f"wrong starts on {' '.join(devices)}")
    with open(devices[1], "r+b", buffering=0) as device:
        os.pwrite(device.fileno(), bytes(56) + b"\x53\xef" + bytes(454), 1024)  # as ext4 has it
        os.fsync(device.fileno())
    refused(f"{base}/a", options(devices), devices[1], "holds something", "--format")
    refused(f"{base}/b", options(devices[:1], "--peers", "3"), "3 peers", "1 --device")
    refused(f"{base}/c", options([devices[0], devices[0]]), "given twice")
    refused(f"{base}/d", options([f"{base}/none", devices[2]]), f"{base}/none", "No such file")
    refused(f"{base}/e", options([make_file(f"{base}/small", 4 * MIB)], "--replication", "1"), "small",
            "needs at least")
    refused(f"{base}/f", options(["/dev/null"], "--replication", "1"), "neither a block device nor a file")
    refused(f"{base}/g", options([devices[2]], "--replication", "1"), "io_uring", "--storage mmap",
            forbid_uring=True)
    # The first device of those became a store of a cluster of its own; that is given up here.
    for device in devices:
        with open(device, "r+b", buffering=0) as opened:
            os.pwrite(opened.fileno(), bytes(MIB), 0)
            os.fsync(opened.fileno())

    step("a cluster on two loop devices and a file")
    model = Model()
    server = Standalone(BIN, data_dir, *options(devices, "--format"))
    model.write(server)
    step("what is in use, or a cluster's, is nobody else's")
    other = ["--replication", "1"]
    refused(f"{base}/h", options(devices[:1], *other), devices[0], "in use" if "loop" in devices[0] else "is open")
    refused(f"{base}/i", options(devices[2:], *other), devices[2], "is open in another process")
    server.kill()
    refused(f"{base}/j", options(devices[:1], "--format", *other), "belongs to", "dd if=/dev/zero")
    refused(data_dir, ["--storage", "disk"], "peer-1 are on " + devices[0], f"--device {devices[0]}")
    refused(data_dir, [], "peer-1 are on " + devices[0])
    step("after kill -9, the devices in another order")
    server = Standalone(BIN, data_dir, *options(devices[::-1]))
    model.check(server)
    model.write(server)
    server.kill()
    step("metadata rebuild finds the devices")
    rebuilt = run([f"{BIN}/agroctl", "metadata", "rebuild", "--data-dir", data_dir, "--dry-run", "--json"])
    assert '"demo"' in rebuilt.stdout, rebuilt.stdout
    server = Standalone(BIN, data_dir, *options(devices))
    model.check(server)
    server.stop()
    if "loop" in devices[0]:
        foreign_file_system(base)


def foreign_file_system(base):
    step("a file system that is mounted, and one that is not")
    device = make_device(f"{base}/ext4", 64 * MIB)
    run(["mkfs.ext4", "-q", "-b", "4096", device])
    os.mkdir(f"{base}/mnt")
    run(["mount", device, f"{base}/mnt"])
    at_exit(lambda: run(["umount", f"{base}/mnt"], check=False))
    one = ["--replication", "1"]
    refused(f"{base}/k", options([device], "--format", *one), device, "mounted")
    run(["umount", f"{base}/mnt"])
    refused(f"{base}/l", options([device], *one), device, "holds something", f"wipefs {device}")
    run(["e2fsck", "-f", "-n", device])  # nothing was written to it


def in_files(base):
    step("files in the data directory: either engine goes on with what the other wrote")
    data_dir = os.path.join(base, "files")
    model = Model()
    for round_number, engine in enumerate(("disk", "mmap", "disk")):
        server = Standalone(BIN, data_dir, "--storage", engine, "--size", "1GiB", "--create-volume",
                            f"demo={SIZE}")
        if round_number > 0:
            model.check(server)
        model.write(server)
        if round_number == 1:
            server.stop()
        else:
            server.kill()
    refused(data_dir, options([f"{base}/{name}" for name in "xyz"]), "peer-1/blocks holds", "without --device")


def main():
    base = scratch_dir("/var/tmp")  # a disk: no direct I/O in memory
    on_devices(base)
    in_files(base)
    print("ok", flush=True)


main()
