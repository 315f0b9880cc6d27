#!/usr/bin/env bash
# Our NBD server, in front of memory, against clients that we did not write: libnbd, QEMU, fio.
# Usage: nbd_clients_test.sh PATH_OF_nbd_memory_server
# Exits 77 (skipped) when a client is not installed.
set -euo pipefail

server=$1
for tool in nbdinfo nbdcopy qemu-img qemu-io fio; do
  command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed"; exit 77; }
done
python=/usr/bin/python3  # the one that Debian's python3-libnbd belongs to
"$python" -c 'import nbd' || { echo "skipped: python3-libnbd is not installed"; exit 77; }

dir=$(mktemp -d)
server_pid=
cleanup() {
  if [ -n "$server_pid" ]; then kill "$server_pid" 2>/dev/null || true; wait "$server_pid" || true; fi
  rm -rf "$dir"
}
trap cleanup EXIT

"$server" "unix:$dir/nbd.sock" 64MiB disk >"$dir/log" 2>"$dir/errors" &
server_pid=$!
for _ in $(seq 100); do grep -q listening "$dir/log" && break; sleep 0.05; done
grep -q listening "$dir/log"
uri="nbd+unix:///disk?socket=$dir/nbd.sock"
fixed="nbd+unix:///fixed?socket=$dir/nbd.sock"

step() { echo "--- $*"; }
expect_failure() { if "$@" >/dev/null 2>&1; then echo "should have failed: $*"; exit 1; fi; }

step "nbdinfo lists both exports with their properties"
nbdinfo --list --json "nbd+unix:///?socket=$dir/nbd.sock" >"$dir/list.json"
"$python" - "$dir/list.json" <<'P'
import json, sys
exports = {e["export-name"]: e for e in json.load(open(sys.argv[1]))["exports"]}
assert set(exports) == {"disk", "fixed"}, exports
disk, fixed = exports["disk"], exports["fixed"]
assert disk["export-size"] == 64 << 20 and not disk["is_read_only"] and fixed["is_read_only"]
for key in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
    assert disk[key], key
assert (disk["block_size_minimum"], disk["block_size_preferred"], disk["block_size_maximum"]) == (1, 4096, 32 << 20)
assert disk["contexts"] == ["base:allocation"], disk["contexts"]
P
expect_failure nbdinfo "nbd+unix:///nothing?socket=$dir/nbd.sock"
expect_failure nbdinfo "nbd+unix:///?socket=$dir/nbd.sock"  # two exports: none is the default

step "qemu-io: patterns at odd offsets and sizes"
qemu-io -f raw "$uri" -c 'write -P 1 0 64M' -c 'write -P 2 1 1' -c 'write -P 3 4095 2' -c 'write -P 4 12345 678901' \
  -c 'write -P 5 67108863 1' -c 'write -f -P 6 1000000 99999' -c 'write -z 5000000 12345' -c 'discard 8M 1M' \
  -c 'write -z -u 10M 1M' -c flush >/dev/null
qemu-io -f raw "$uri" -c 'read -P 1 0 1' -c 'read -P 2 1 1' -c 'read -P 1 2 4093' -c 'read -P 3 4095 2' \
  -c 'read -P 1 4097 8248' -c 'read -P 4 12345 678901' -c 'read -P 6 1000000 99999' -c 'read -P 1 1099999 1' \
  -c 'read -P 0 5000000 12345' -c 'read -P 0 8M 1M' -c 'read -P 0 10M 1M' -c 'read -P 5 67108863 1' >"$dir/qemu-io"
if grep -iE 'failed|error|verification' "$dir/qemu-io"; then exit 1; fi
expect_failure qemu-io -f raw "$fixed" -c 'write 0 512'

step "nbdinfo --map sees data and holes"
nbdinfo --map --json "$uri" >"$dir/map.json"
"$python" - "$dir/map.json" <<'P'
import json, sys
extents = json.load(open(sys.argv[1]))
at = 0
for extent in extents:
    assert extent["offset"] == at and extent["length"] > 0, extents
    at += extent["length"]
assert at == 64 << 20, at
holes = [(e["offset"], e["length"]) for e in extents if e["type"] == 3]
assert (8 << 20, 1 << 20) in holes and (10 << 20, 1 << 20) in holes, holes
P

step "nbdcopy both ways, 1 and 4 connections"
head -c 48M /dev/urandom >"$dir/image"
truncate -s 64M "$dir/image"  # ends in a hole
for connections in 1 4; do
  nbdcopy --connections=$connections "$dir/image" "$uri"
  nbdcopy --connections=$connections "$uri" "$dir/copy"
  cmp "$dir/image" "$dir/copy"
  nbdcopy --destination-is-zero --connections=$connections --request-size=33554432 --threads=1 "$uri" "$dir/copy2"
  cmp "$dir/image" "$dir/copy2"
  rm "$dir/copy" "$dir/copy2"
done

step "qemu-img convert both ways and compare"
head -c 20M /dev/urandom >"$dir/image"
truncate -s 64M "$dir/image"
qemu-img convert -n -f raw -O raw "$dir/image" "$uri"
qemu-img compare -f raw -F raw "$dir/image" "$uri" >/dev/null
qemu-img convert -f raw -O qcow2 "$uri" "$dir/back.qcow2"
qemu-img compare -f raw -F qcow2 "$dir/image" "$dir/back.qcow2" >/dev/null

step "libnbd: several connections share the export; illegal requests get errors"
"$python" - "$dir/nbd.sock" <<'P'
import errno, sys, nbd
def connect(name="disk", structured=True, handshake_flags=None, opt_mode=False):
    h = nbd.NBD()
    h.set_export_name(name)
    h.set_strict_mode(0)
    h.set_request_structured_replies(structured)
    if structured: h.add_meta_context("base:allocation")
    if handshake_flags is not None: h.set_handshake_flags(handshake_flags)
    h.connect_unix(sys.argv[1])
    return h
def expect(number, call, *args, **kwargs):
    try: call(*args, **kwargs)
    except nbd.Error as e:
        assert e.errnum == number, (call, args, e)
        return
    raise AssertionError(f"no error: {call} {args}")
size = 64 << 20
for structured in (True, False):
    handles = [connect(structured=structured) for _ in range(4)]
    assert all(h.can_multi_conn() for h in handles)
    for index, h in enumerate(handles): h.pwrite(bytes([65 + index]) * 5000, 7777 * index)
    handles[0].flush()
    for index, h in enumerate(handles): assert h.pread(5000, 7777 * ((index + 1) % 4)) == bytes([65 + (index + 1) % 4]) * 5000
    h = handles[0]
    expect(errno.EINVAL, h.pread, 2, size - 1)
    expect(errno.EINVAL, h.pread, 512, size)
    expect(errno.EINVAL, h.pread, (32 << 20) + 1, 0)
    expect(errno.ENOSPC, h.pwrite, b"xx", size - 1)
    expect(errno.ENOSPC, h.zero, 4096, size)
    expect(errno.EINVAL, h.trim, 4096, size)
    expect(errno.EINVAL, h.cache, 4096, size)
    expect(errno.EINVAL, h.pread, 512, 0, flags=nbd.CMD_FLAG_NO_HOLE)
    expect(errno.EINVAL, h.pwrite, b"x" * 512, 0, flags=1 << 9)
    expect(errno.EINVAL, h.trim, 512, 0, flags=nbd.CMD_FLAG_REQ_ONE)
    extents = []
    status = lambda context, offset, entries, error: extents.extend(entries)
    expect(errno.EINVAL, h.block_status, 4096, size, status)
    if structured:
        h.block_status(size, 0, status)
        assert sum(extents[0::2]) == size, extents
        extents.clear()
        h.block_status(size, 0, status, flags=nbd.CMD_FLAG_REQ_ONE)
        assert len(extents) == 2, extents
    else:
        expect(errno.EINVAL, h.block_status, 4096, 0, status)
    assert h.pread(5000, 0) == b"A" * 5000
    h.zero(4096, 0, flags=nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
    assert h.pread(4096, 0) == bytes(4096)
    big = bytes(range(256)) * (32 << 12)
    h.pwrite(big, 12345)
    assert h.pread(32 << 20, 12345) == big
    # Many in flight at once, in both directions.
    cookies = []
    buffers = [nbd.Buffer(65536) for _ in range(200)]
    for index, buffer in enumerate(buffers):
        cookies.append(h.aio_pread(buffer, 65536 * index))
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"q" * 10)), size - 10))
    while h.aio_in_flight() > 0: h.poll(-1)
    for cookie in cookies: assert h.aio_command_completed(cookie)
    for index, buffer in enumerate(buffers):
        data = buffer.to_bytearray()
        low = max(0, 12345 - 65536 * index)
        begin = 65536 * index + low - 12345
        assert data[low:] == big[begin:begin + 65536 - low], index
    for h in handles: h.shutdown()
    ro = connect("fixed", structured)
    expect(errno.EPERM, ro.pwrite, b"x", 0)
    expect(errno.EPERM, ro.trim, 1, 0)
    expect(errno.EPERM, ro.zero, 1, 0)
    assert ro.pread(10, 0) == bytes(10)
    ro.flush()
    ro.shutdown()
for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    h = connect(structured=False, handshake_flags=flags)
    assert h.get_size() == size and h.pread(1, size - 1) == b"q"
    h.shutdown()
P

step "nbdsh speaks to it, and a reset in the middle of requests harms nobody"
"$python" -m nbd -u "$uri" -c 'h.pwrite(b"hello", 100)' -c 'assert h.pread(5, 100) == b"hello"'
for _ in 1 2 3; do
  "$python" - "$dir/nbd.sock" <<'P'
import os, sys, nbd
h = nbd.NBD()
h.set_export_name("disk")
h.connect_unix(sys.argv[1])
for index in range(50): h.aio_pread(nbd.Buffer(1 << 20), index << 20)
os._exit(0)
P
done
"$python" -m nbd -u "$uri" -c 'assert h.pread(5, 100) == b"hello"'

step "fio verifies random writes over 4 connections"
fio --name=verify --ioengine=nbd --uri="$uri" --size=8M --offset_increment=16M --numjobs=4 --rw=randwrite --bsrange=512-65536 \
  --bs_unaligned=0 --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 --fsync=37 --output="$dir/fio"

step "malformed bytes close one connection and are logged"
"$python" - "$dir/nbd.sock" <<'P'
import socket, sys
for junk in (b"\0\0\0\x04", b"\0\0\0\x03" + b"junk" * 10):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.settimeout(20)
    assert len(s.recv(18)) == 18
    s.send(junk)
    try: assert s.recv(100) == b""
    except ConnectionResetError: pass
P
grep -q 'unknown client flags 0x4' "$dir/errors"
grep -q 'the magic of an option' "$dir/errors"

step "the server ends cleanly"
kill "$server_pid"
status=0
wait "$server_pid" || status=$?
server_pid=
[ "$status" = 0 ] || { echo "exit status $status"; cat "$dir/errors"; exit 1; }
[ ! -e "$dir/nbd.sock" ]
echo "all clients agree"
