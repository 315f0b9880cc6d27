#!/usr/bin/python3
# Clients that we did not write, against `agro standalone`: libnbd's tools, QEMU's, fio, and four
# connections at once on one export whose flushes cover each other's writes, over kill -9.
#
# Usage: clients_test.py BIN_DIR
import filecmp
import json
import os
import random
import sys

from agro_testlib import MIB, Standalone, need_tools, run, scratch_dir, skip, step, wait_for

try:
    import nbd
except ImportError:
    skip("python3-libnbd is not installed for /usr/bin/python3")

VOLUME, SIZE = "demo", 128 * MIB


def make_image(path, size, seed=7):
    """Data, zeros and holes of many sizes; ends in a hole."""
    rng = random.Random(seed)
    with open(path, "wb") as file:
        at = 0
        while at < size - 8 * MIB:
            length = rng.choice([512, 4096, 65536, 1 << 20]) * rng.randint(1, 5)
            kind = rng.random()
            if kind < 0.5:
                file.seek(at)
                file.write(rng.randbytes(length))
            elif kind < 0.6:
                file.seek(at)
                file.write(bytes(length))
            at += length
        file.truncate(size)


def nbdinfo_speaks(server):
    uri = server.uri(VOLUME)
    export = json.loads(run(["nbdinfo", "--json", uri]).stdout)["exports"][0]
    assert export["export-size"] == SIZE and not export["is_read_only"], export
    for key in ("can_cache", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
        assert export[key], key
    limits = [export[f"block_size_{key}"] for key in ("minimum", "preferred", "maximum")]
    assert limits == [1, 4096, 32 * MIB], limits
    names = [each["export-name"] for each in
             json.loads(run(["nbdinfo", "--list", "--json", server.uri("")]).stdout)["exports"]]
    assert names == [VOLUME, "second"], names
    # One hole at first; then holes but where data is.
    assert extents(uri) == [(0, SIZE, 3)], extents(uri)
    run(["qemu-io", "-f", "raw", uri, "-c", "write -P 1 8M 64k", "-c", "write -P 1 20M 1M", "-c", "discard 20M 64k"])
    data = [each[:2] for each in extents(uri) if each[2] & 1 == 0]
    assert data == [(8 * MIB, 65536), (20 * MIB + 65536, MIB - 65536)], data
    assert run(["nbdinfo", f"{server.uri('nothing')}"], check=False).returncode != 0


def extents(uri):
    """(offset, length, flags), neighbours that are alike made one."""
    merged = []
    for each in json.loads(run(["nbdinfo", "--map", "--json", uri]).stdout):
        offset, length, flags = each["offset"], each["length"], each["type"]
        if merged and merged[-1][2] == flags:
            merged[-1] = (merged[-1][0], merged[-1][1] + length, flags)
        else:
            merged.append((offset, length, flags))
    assert sum(each[1] for each in merged) == SIZE, merged
    return merged


def qemu_img_converts(server, scratch):
    uri, image = server.uri(VOLUME), f"{scratch}/image"
    make_image(image, SIZE)
    run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri])
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, f"{scratch}/back.qcow2"])
    run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, f"{scratch}/back.qcow2"])
    make_image(image, SIZE, seed=8)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, f"{scratch}/other.qcow2"])
    run(["qemu-img", "convert", "-n", "-m", "8", "-W", "-f", "qcow2", "-O", "raw", f"{scratch}/other.qcow2", uri])
    run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, f"{scratch}/back"])
    assert filecmp.cmp(image, f"{scratch}/back", shallow=False)
    # qcow2 on the volume itself: small writes of metadata with flushes.
    run(["qemu-img", "create", "-q", "-f", "qcow2", uri, "100M"])
    run(["qemu-io", "-f", "qcow2", uri, "-c", "write -P 9 77777 5000000", "-c", "flush"])
    run(["qemu-io", "-f", "qcow2", uri, "-c", "read -P 9 77777 5000000", "-c", "read -P 0 0 77777"])
    run(["qemu-img", "check", "-q", "-f", "qcow2", uri])


def qemu_io_patterns(server):
    """Random writes, zeros and discards at odd places, against a model in memory; read back
    through QEMU, over a restart as well."""
    size, rng = 4 * MIB, random.Random(11)
    model = bytearray(size)
    commands = ["write -z 0 4M"]
    for number in range(300):
        length = rng.choice([1, 511, 512, 513, 4095, 4096, 4097, rng.randint(1, 300000)])
        offset = rng.randrange(size - length)
        kind = rng.random()
        if kind < 0.75:
            pattern = rng.randint(1, 255)
            flags = rng.choice(["", "", "-f "])
            commands.append(f"write {flags}-P {pattern} {offset} {length}")
            model[offset:offset + length] = bytes([pattern]) * length
        elif kind < 0.9:
            commands.append(f"write -z {rng.choice(['', '-u '])}{offset} {length}")
            model[offset:offset + length] = bytes(length)
        else:
            begin, end = -(-offset // 4096) * 4096, (offset + length) // 4096 * 4096
            if begin < end:
                commands.append(f"discard {begin} {end - begin}")
                model[begin:end] = bytes(end - begin)
    qemu_io(server, commands + ["flush"])
    with_model(server, model)
    return model


def qemu_io(server, commands):
    args = [each for command in commands for each in ("-c", command)]
    done = run(["qemu-io", "-f", "raw", server.uri(VOLUME), *args])
    text = done.stdout + done.stderr
    for word in ("failed", "error", "verification", "ERROR"):
        assert word not in text, [line for line in text.splitlines() if word in line][:5]


def with_model(server, model):
    """qemu-io verifies runs of one byte; libnbd the whole."""
    commands, at = [], 0
    while at < len(model) and len(commands) < 500:
        end = at
        while end < len(model) and model[end] == model[at]:
            end += 1
        commands.append(f"read -P {model[at]} {at} {end - at}")
        at = end
    qemu_io(server, commands)
    handle = server.connect(VOLUME)
    assert handle.pread(len(model), 0) == model
    handle.shutdown()


def nbdcopy_copies(server, scratch):
    uri, image, back = server.uri(VOLUME), f"{scratch}/image", f"{scratch}/back"
    for connections in (1, 4):
        make_image(image, SIZE, seed=connections)
        run(["nbdcopy", "--flush", f"--connections={connections}", image, uri])
        if os.path.exists(back):
            os.unlink(back)
        run(["nbdcopy", f"--connections={connections}", uri, back])
        assert filecmp.cmp(image, back, shallow=False)
    # From volume to volume.
    run(["nbdcopy", "--connections=4", uri, server.uri("second")])
    run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, server.uri("second")])


def fio_verifies(server, scratch):
    common = ["fio", "--ioengine=nbd", f"--uri={server.uri(VOLUME)}", "--verify=crc32c", "--verify_fatal=1",
              "--do_verify=1", "--verify_state_save=0"]
    run([*common, "--name=random", "--size=64M", "--rw=randwrite", "--bs=4k", "--iodepth=32"], cwd=scratch)
    run([*common, "--name=four", "--numjobs=4", "--size=24M", "--offset_increment=32M", "--rw=randwrite",
         "--bsrange=512-65536", "--iodepth=16", "--fsync=37"], cwd=scratch)
    run([*common, "--name=overwrites", "--size=32M", "--rw=randrw", "--norandommap", "--bs=8k", "--iodepth=16",
         "--io_size=64M", "--verify_backlog=64"], cwd=scratch)


def only_small_reads_are_read_ahead(server):
    """A long read is answered in pieces, which must not pass for a stream of small reads: everything would go through the
    cache. Small reads after it show that reading ahead is counted."""
    ahead = "agro_volume_read_ahead_bytes_total"
    handle = server.connect("second")
    for at in range(0, 32 * MIB, MIB):
        handle.pwrite(os.urandom(MIB), at)
    handle.flush()
    handle.shutdown()
    before = server.metric(ahead)
    handle = server.connect("second")
    for _ in range(2):  # the second time from the page cache, where there are pieces
        for at in range(0, 32 * MIB, MIB):
            handle.pread(MIB, at)
    assert server.metric(ahead) == before, server.metric(ahead) - before
    for at in range(0, 2 * MIB, 16384):
        handle.pread(16384, at)
    wait_for("small reads in order are read ahead", lambda: server.metric(ahead) > before)
    handle.shutdown()


def multi_conn(server, restart):
    """What NBD_FLAG_CAN_MULTI_CONN promises: a flush on one connection covers what was acknowledged
    on all, and reads on one see the writes of the others."""
    for round_number in range(5):
        handles = [server.connect(VOLUME) for _ in range(4)]
        assert all(handle.can_multi_conn() for handle in handles)
        blocks = [os.urandom(9999) for _ in handles]
        for number, (handle, block) in enumerate(zip(handles, blocks)):
            handle.pwrite(block, number * 11111 + round_number)
        for number, block in enumerate(blocks):
            reader = handles[(number + 1) % 4]
            assert reader.pread(len(block), number * 11111 + round_number) == block
        handles[round_number % 4].flush()
        server.kill()
        server = restart()
        handle = server.connect(VOLUME)
        for number, block in enumerate(blocks):
            assert handle.pread(len(block), number * 11111 + round_number) == block, (round_number, number)
        # The same with FUA: durable by itself.
        handle.pwrite(b"fua" * 1000, 99999, flags=nbd.CMD_FLAG_FUA)
        server.kill()
        server = restart()
        handle = server.connect(VOLUME)
        assert handle.pread(3000, 99999) == b"fua" * 1000
        handle.shutdown()
    return server


def main():
    bin_dir = sys.argv[1]
    need_tools("nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "fio")
    scratch = scratch_dir()

    def restart():
        return Standalone(bin_dir, f"{scratch}/data", "--size", "4GiB", "--create-volume", f"{VOLUME}={SIZE}",
                          "--create-volume", f"second={SIZE}")
    server = restart()
    step("nbdinfo: properties, list, map")
    nbdinfo_speaks(server)
    step("qemu-img convert, both ways, raw and qcow2")
    qemu_img_converts(server, scratch)
    step("qemu-io: patterns at odd offsets and sizes")
    model = qemu_io_patterns(server)
    server.stop()
    server = restart()
    with_model(server, model)
    step("nbdcopy, both ways, 1 and 4 connections")
    nbdcopy_copies(server, scratch)
    step("fio verifies random writes, also over 4 connections")
    fio_verifies(server, scratch)
    step("long reads are not read ahead, small ones in order are")
    only_small_reads_are_read_ahead(server)
    step("four connections: a flush on one covers the others, over kill -9")
    server = multi_conn(server, restart)
    server.stop()


if __name__ == "__main__":
    main()
