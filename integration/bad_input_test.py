#!/usr/bin/python3
"""Bad input: a clear one-line error and exit status 1, and malformed bytes close one connection only.

Method: a table of command lines and of damaged directories; random and truncated frames on the NBD
and ADP sockets of a running server, which must go on serving a well-behaved client.
Usage: bad_input_test.py BIN_DIR
"""
import os
import random
import re
import shutil
import socket
import struct
import sys
import time

import agro_testlib as lib
from agro_testlib import MIB, Process, Standalone, run, step, wait_for

SEED = int(os.environ.get("AGRO_TEST_SEED", "1"))
LIMIT_SECONDS = 20


def program(name):
    return os.path.join(sys.argv[1], name)


def expect_error(what, args, *words, timeout=LIMIT_SECONDS):
    """Runs `args`: status 1, the error on one line of standard error, with all of `words` in it."""
    done = run(args, timeout=timeout, check=False)
    lines = [line for line in done.stderr.splitlines() if " warning: " not in line]
    shown = f"{what}: {args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 1, shown
    assert len(lines) == 1, "not one line on standard error: " + shown
    assert lines[0].startswith(os.path.basename(args[0]) + ": "), shown
    for word in words:
        assert re.search(word, lines[0], re.IGNORECASE), f"no '{word}' in: {shown}"
    print(f"    {what}: {lines[0][:200]}")
    return lines[0]


def standalone(data_dir, *options):
    return [program("agro"), "standalone", "--data-dir", data_dir, *options]


def bad_command_lines(scratch):
    step("bad command lines")
    new = os.path.join(scratch, "new")
    metadata = ["-C", f"sqlite:{scratch}/none.db"]
    peer = [program("agro"), *metadata, "--data-dir", new]
    serve = [program("agroblock"), *metadata, "nbdserve"]
    address = ["--peer-address", f"adp+unix:{scratch}/adp.sock"]
    table = [
        ("unknown flag", standalone(new, "--sise", "1GiB"), "--sise"),
        ("unknown flag of a peer", [*peer, "--frob"], "--frob"),
        ("unknown flag of agroblock", [*serve, "--frob"], "--frob"),
        ("unknown subcommand", [program("agroblock"), "frob"], "frob|subcommand"),
        ("no data directory", [program("agro"), "standalone"], "--data-dir"),
        ("size without a number", standalone(new, "--size", "many"), "--size", "many"),
        ("size with an unknown unit", standalone(new, "--size", "5XiB"), "5XiB"),
        ("negative size", standalone(new, "--size", "-5G"), "-5G"),
        ("size beyond 2^64", standalone(new, "--size", "99999999999999999999G"), "--size"),
        ("empty size", standalone(new, "--size", ""), "--size"),
        ("size that holds nothing", standalone(new, "--size", "1MiB"), "at least"),
        ("zero size", standalone(new, "--size", "0"), "at least"),
        ("block size no power of two", standalone(new, "--block-size", "100000"), "power of two"),
        ("block size too large", standalone(new, "--block-size", "1GiB"), "16MiB"),
        ("unknown storage", standalone(new, "--storage", "tape"), "tape|temp"),
        ("more copies than peers", standalone(new, "--peers", "1"), "--peers"),
        ("no peers", standalone(new, "--peers", "0"), "--peers"),
        ("bad NBD address", standalone(new, "--nbd", "pigeon:coop"), "pigeon"),
        ("bad NBD port", standalone(new, "--nbd", "tcp:127.0.0.1:99999"), "99999"),
        ("volume without a size", standalone(new, "--create-volume", "v"), "NAME=SIZE"),
        ("volume with a bad size", standalone(new, "--create-volume", "v=much"), "much"),
        ("volume with a bad name", standalone(new, "--create-volume", "a/b=1GiB"), "name"),
        ("volume of no size", standalone(new, "--create-volume", "v=0"), "0 bytes"),
        ("peer without an address", [*peer, "--size", "1GiB"], "--peer-address"),
        ("peer without a size", [*peer, *address], "--size"),
        ("peer with a bad address", [*peer, "--size", "1GiB", "--peer-address", "x"], "x"),
        ("no metadata store", [*peer, "--size", "1GiB", *address], "none.db", "init"),
        ("no metadata store for a client", serve, "none.db", "init"),
        ("unknown metadata URI", [program("agroblock"), "-C", "redis:x", "nbdserve"], "sqlite:"),
        ("a directory that cannot be made", standalone("/proc/agro"), "/proc/agro"),
    ]
    for what, args, *words in table:
        expect_error(what, args, *words)
        shutil.rmtree(new, ignore_errors=True)
    env = {key: value for key, value in os.environ.items() if key != "AGRO_METADATA"}
    env["HOME"] = scratch
    done = run([program("agroblock"), "nbdserve"], check=False, env=env)
    assert done.returncode == 1 and "--metadata" in done.stderr, done.stderr
    foreign = os.path.join(scratch, "photos")
    os.makedirs(foreign)
    with open(os.path.join(foreign, "cat.jpg"), "w") as file:
        file.write("meow")
    expect_error("a directory of somebody else's", standalone(foreign), "not an agro data directory")
    assert os.listdir(foreign) == ["cat.jpg"], "it was left as it was"
    expect_error("a file for a directory", standalone(os.path.join(foreign, "cat.jpg")), "cat.jpg")


def in_use(server, data_dir, scratch):
    step("what is in use")
    expect_error("the same directory twice", standalone(data_dir), "in use|another process")
    taken = os.path.join(scratch, "taken.sock")
    other = os.path.join(scratch, "other")
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        unix.bind(taken)
        unix.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]
        expect_error("a socket in use", standalone(other, "--nbd", f"unix:{taken}"), taken, "in use")
        expect_error("a port in use", standalone(other, "--nbd", f"tcp:127.0.0.1:{port}"), str(port),
                     "in use")
        expect_error("a port in use for metrics", standalone(other, "--metrics", f"tcp:127.0.0.1:{port}"),
                     str(port), "in use")
        expect_error("a peer's port in use",
                     [program("agro"), "-C", f"sqlite:{data_dir}/meta.db", "--data-dir",
                      os.path.join(scratch, "p"), "--size", "1GiB", "--peer-address",
                      f"adp://127.0.0.1:{port}"], str(port), "in use")
    server.connect("v").shutdown()
    shutil.rmtree(other)


def volumes(server, data_dir):
    step("volumes that exist, do not exist, are open elsewhere")
    import nbd
    try:
        server.connect("nothing")
        raise AssertionError("a volume that does not exist was opened")
    except nbd.Error as error:
        print(f"    not there: {error}")
    metadata = ["-C", f"sqlite:{data_dir}/meta.db"]
    expect_error("nbdserve of a volume that is not there",
                 [program("agroblock"), *metadata, "nbdserve", "-l", f"unix:{data_dir}/x.sock", "nothing"],
                 "nothing")
    disk = server.connect("v")
    disk.pwrite(b"mine" * 128, 0)
    other = Process([program("agroblock"), *metadata, "nbdserve", "-l", f"unix:{data_dir}.sock"],
                    f"{data_dir}.client.log")
    wait_for("the other client listens", lambda: "serving" in other.log())
    try:
        lib.connect(f"{data_dir}.sock", "v")
        raise AssertionError("a volume that is open elsewhere was opened")
    except nbd.Error as error:
        print(f"    open elsewhere: {error}")
    wait_for("it says by whom", lambda: "is open by agro standalone" in other.log())
    assert other.terminate() == 0
    disk.flush()
    assert bytes(disk.pread(512, 0)) == b"mine" * 128
    if os.path.exists(program("agroctl")):
        control = [program("agroctl"), *metadata, "volume"]
        expect_error("create one that exists", [*control, "create-block", "v", "1GiB"], "'?v'?", "exists")
        expect_error("delete one that is open", [*control, "delete", "v"], "open")
        expect_error("delete one that is not there", [*control, "delete", "nothing"], "nothing")
        expect_error("a size that is none", [*control, "create-block", "w", "huge"], "huge")
        expect_error("a name that is none", [*control, "create-block", "a b", "1GiB"], "name")
    disk.shutdown()


def change(path, change_bytes):
    with open(path, "rb") as file:
        content = bytearray(file.read())
    content = change_bytes(content)
    with open(path, "wb") as file:
        file.write(content)


def flip_everywhere(content):
    for at in range(0, len(content), 997):
        content[at] ^= 0x55
    return content


def damaged_directories(pristine, scratch):
    step("damaged and foreign directories")
    path = os.path.join(scratch, "damaged")
    other = os.path.join(scratch, "second")  # another cluster
    server = Standalone(sys.argv[1], other, "--size", "256MiB", "--create-volume", "v=16MiB")
    server.stop()
    generator = random.Random(SEED)
    def foreign_peer():
        shutil.rmtree(f"{path}/peer-1")
        shutil.copytree(f"{other}/peer-1", f"{path}/peer-1", ignore=shutil.ignore_patterns("*.sock"))

    def same_peer_twice():
        shutil.copytree(f"{path}/peer-1", f"{path}/peer-4", ignore=shutil.ignore_patterns("*.sock"))

    meta, store = f"{path}/meta.db", f"{path}/peer-2/blocks"
    table = [
        ("a peer of another cluster", foreign_peer, ["cluster", "peer.1"]),
        ("meta.db of another cluster", lambda: shutil.copy(f"{other}/meta.db", meta), ["cluster"]),
        ("meta.db cut to nothing", lambda: change(meta, lambda c: b""), ["meta.db|no cluster"]),
        ("meta.db cut short", lambda: change(meta, lambda c: c[:len(c) // 2]), ["meta.db", "damaged"]),
        ("meta.db cut within a page", lambda: change(meta, lambda c: c[:5000]), ["meta.db", "damaged"]),
        ("meta.db is garbage", lambda: change(meta, lambda c: generator.randbytes(len(c))), ["meta.db"]),
        ("meta.db is text", lambda: change(meta, lambda c: b"hello\n"), ["meta.db"]),
        ("meta.db with flipped bytes", lambda: change(meta, flip_everywhere), ["meta.db"]),
        ("meta.db is a directory", lambda: (os.remove(meta), os.makedirs(meta)), ["meta.db"]),
        ("meta.db is gone", lambda: os.remove(meta), ["meta.db"]),
        ("a store cut short", lambda: change(store, lambda c: c[:3 * MIB + 5]), ["peer-2/blocks"]),
        ("a store cut to its superblocks", lambda: change(store, lambda c: c[:8192]), ["peer-2/blocks"]),
        ("a store cut within a superblock", lambda: change(store, lambda c: c[:100]), ["peer-2/blocks"]),
        ("a store of garbage", lambda: change(store, lambda c: generator.randbytes(len(c))),
         ["peer-2/blocks"]),
        ("a store of zeros", lambda: change(store, lambda c: bytes(len(c))), ["peer-2/blocks"]),
        ("a store is a directory", lambda: (os.remove(store), os.makedirs(store)), ["peer-2/blocks"]),
        ("one peer's directory twice", same_peer_twice, ["peer"]),
    ]
    for what, damage, words in table:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(pristine, path, ignore=shutil.ignore_patterns("*.sock"))
        damage()
        expect_error(what, standalone(path), *words)
    shutil.rmtree(path)
    shutil.copytree(pristine, path, ignore=shutil.ignore_patterns("*.sock"))
    expect_error("a store smaller than its data", standalone(path, "--size", "20MiB"), "at least")
    expect_error("another block size", standalone(path, "--block-size", "2MiB"), "block size")
    expect_error("another replication", standalone(path, "--replication", "3"), "--replication")
    expect_error("fewer peers", standalone(path, "--peers", "2"), "--peers")
    step("single flipped bytes in meta.db: refused, or everything is right")
    refused = 0
    for _ in range(8):
        shutil.rmtree(path)
        shutil.copytree(pristine, path, ignore=shutil.ignore_patterns("*.sock"))
        at = generator.randrange(os.path.getsize(meta))

        def flip(content, at=at):
            content[at] ^= 1 << generator.randrange(8)
            return content
        change(meta, flip)
        refused += not starts_right(path)
    print(f"    {refused} of 8 refused")


def starts_right(path):
    log = f"{path}.log"
    if os.path.exists(log):
        os.remove(log)
    server = Process(standalone(path), log)
    deadline = time.monotonic() + LIMIT_SECONDS
    while server.alive() and "Ctrl-C" not in server.log():
        assert time.monotonic() < deadline, "neither ready nor ended"
        time.sleep(0.02)
    if not server.alive():
        assert server.wait() == 1, f"{server.wait()}: {server.log()}"
        assert server.log().splitlines()[-1].startswith("agro: "), server.log()
        return False
    import nbd
    try:
        disk = lib.connect(f"{path}/nbd.sock", "v")
        assert bytes(disk.pread(MIB, 0)) == CONTENT
        disk.shutdown()
    except nbd.Error as error:
        print(f"    refused the volume: {error}")
    server.terminate()
    return True


CONTENT = random.Random(99).randbytes(MIB)
NBD_HELLO = struct.pack(">I", 3)


def nbd_option(number, data):
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def nbd_request(command, offset, size, flags=0, magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, command, 7, offset, size)


def garbage(generator, kind):
    """What a broken or hostile client sends."""
    go = nbd_option(7, struct.pack(">I", 1) + b"v" + struct.pack(">H", 0))
    adp = struct.pack("<IBBBBQIII", 0x31504441, 1, generator.randrange(12), 0, 0, 1,
                      generator.choice([0, 8, 1 << 20, 0xFFFFFFFF]),
                      generator.choice([0, 4096, 0xFFFFFFFF]), 0)
    choices = {
        "nbd": [generator.randbytes(generator.randrange(1, 3000)),
                NBD_HELLO + generator.randbytes(200),
                struct.pack(">I", 0xFFFFFFFF),
                NBD_HELLO + nbd_option(7, b"\xff" * 5000),
                NBD_HELLO + nbd_option(99, b"x"),
                NBD_HELLO + b"IHAVEOPT" + struct.pack(">II", 7, 0xFFFFFFFF),
                NBD_HELLO + go + generator.randbytes(500),
                NBD_HELLO + go + nbd_request(1, 0, 0xFFFFFFFF),
                NBD_HELLO + go + nbd_request(1, 0, 4096)[:generator.randrange(1, 28)],
                NBD_HELLO + go + nbd_request(1, 1 << 60, 4096),
                NBD_HELLO + go + nbd_request(0, 0, 0xFFFFFFFF),
                NBD_HELLO + go + nbd_request(77, 0, 0),
                NBD_HELLO + go + nbd_request(0, 0, 4096, flags=0xFFFF),
                NBD_HELLO + go + nbd_request(0, 0, 4096, magic=1)],
        "adp": [generator.randbytes(generator.randrange(1, 3000)),
                adp + struct.pack("<I", generator.getrandbits(32)),
                adp[:generator.randrange(len(adp))],
                b"ADP1" + generator.randbytes(2000),
                b"GET / HTTP/1.1\r\n\r\n"],
        "metrics": [generator.randbytes(500), b"GET " + b"a" * 100000, b"\0" * 70000],
    }[kind]
    return generator.choice(choices)


def malformed_bytes(server, data_dir):
    step("malformed bytes close their connection only")
    generator = random.Random(SEED)
    disk = server.connect("v")  # goes on all the while, and is never closed
    sockets = {"nbd": f"{data_dir}/nbd.sock", "adp": f"{data_dir}/peer-1/adp.sock",
               "metrics": f"{data_dir}/metrics.sock"}
    closed = 0
    for round_number in range(300):
        kind = generator.choice(["nbd", "nbd", "adp", "adp", "metrics"])
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(5)
            stream.connect(sockets[kind])
            try:
                stream.sendall(garbage(generator, kind))
                if generator.random() < 0.5:
                    stream.shutdown(socket.SHUT_WR)
                    while stream.recv(65536):
                        pass
                    closed += 1
            except (BrokenPipeError, ConnectionResetError):
                closed += 1
        if round_number % 10 == 0:
            assert bytes(disk.pread(MIB, 0)) == CONTENT
            disk.pwrite(struct.pack("<Q", round_number) * 512, 2 * MIB)
            disk.flush()
    assert closed >= 100, f"only {closed} connections were closed by the server"
    assert server.alive()
    assert bytes(disk.pread(MIB, 0)) == CONTENT
    assert bytes(disk.pread(4096, 2 * MIB)) == struct.pack("<Q", 290) * 512
    disk.shutdown()
    server.connect("v").shutdown()


def main():
    scratch = lib.scratch_dir()
    bad_command_lines(scratch)
    data_dir = os.path.join(scratch, "d")
    server = Standalone(sys.argv[1], data_dir, "--size", "256MiB", "--create-volume", "v=48MiB")
    disk = server.connect("v")
    disk.pwrite(CONTENT, 0)
    for at in range(4, 40):
        disk.pwrite(random.Random(at).randbytes(MIB), at * MIB)
    disk.flush()
    disk.shutdown()
    in_use(server, data_dir, scratch)
    malformed_bytes(server, data_dir)
    disk = server.connect("v")
    assert bytes(disk.pread(MIB, 0)) == CONTENT
    disk.shutdown()
    volumes(server, data_dir)
    disk = server.connect("v")
    disk.pwrite(CONTENT, 0)
    disk.flush()
    disk.shutdown()
    server.stop()
    pristine = os.path.join(scratch, "pristine")
    shutil.copytree(data_dir, pristine, ignore=shutil.ignore_patterns("*.sock"))
    damaged_directories(pristine, scratch)
    print("ok")


main()
