#!/usr/bin/env python3
"""Extends measured figures to large clusters: the table of docs/scale.md.

Usage: scale_model.py             prints the table
       scale_model.py --check F   fails unless F has the table as it is printed
"""
import sys

PEERS = (3, 30, 100, 300, 1000)
USER_BYTES = 1e15  # 1 PB of users' data
COPIES = 3
BLOCK = 1 << 20
MIB, GB, TB = 1 << 20, 1e9, 1e12

# Measured or counted; where, is said in docs/scale.md.
STORE_BYTES_PER_BLOCK = 72
RESTART_SECONDS_PER_BLOCK = 0.14 / 1e6
REBALANCE_RATE = 64 * MIB          # sent by each peer, the default
LEASE_RENEWALS = {"peer": 8 / 10, "volume": 8 / 13}  # a second
VOLUME_SIZE = 1e12
CHANNEL_BUFFER = 64 * 1024         # of a connection, at each end
PEER_RECORD, VOLUME_RECORD = 180, 130  # bytes in the view, key and value
RING_UNION = {3: 274, 30: 5012, 100: 12655, 300: 37308, 1000: 114758}   # bytes, 4,096 groups
RING_EXCESS = {3: 0.0, 30: 0.1, 100: 0.7, 300: 2.2, 1000: 5.7}          # %, fullest peer, 4,096 groups
WRITE_RATE = 50e6                  # bytes a second that each client writes, as many clients as peers


def human(size):
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.3g} B"


def duration(seconds):
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.2g} s"


def rows():
    per_peer = {n: USER_BYTES * COPIES / n for n in PEERS}
    blocks = {n: per_peer[n] / BLOCK for n in PEERS}
    volumes = USER_BYTES / VOLUME_SIZE
    view = {n: n * PEER_RECORD + volumes * VOLUME_RECORD + RING_UNION[n] / 2 for n in PEERS}
    # A peer writes its record when its use has moved by a hundredth of its size.
    updates = {n: n * (WRITE_RATE * COPIES) / (0.01 * per_peer[n]) for n in PEERS}
    yield "stored by each peer", {n: human(per_peer[n]) for n in PEERS}
    yield "index in each peer's memory", {n: human(blocks[n] * STORE_BYTES_PER_BLOCK) for n in PEERS}
    yield "a peer's restart, index alone", {n: duration(blocks[n] * RESTART_SECONDS_PER_BLOCK) for n in PEERS}
    yield "fullest peer above its share, 4,096 groups", {n: f"{RING_EXCESS[n]:.1f} %" for n in PEERS}
    yield "ring's record while it changes (limit 512 KiB)", {n: human(RING_UNION[n]) for n in PEERS}
    yield "one peer lost: its data copied again in", {
        n: "nowhere to" if n <= COPIES else duration(per_peer[n] / ((n - 1) * REBALANCE_RATE)) for n in PEERS}
    yield "connections of each peer", {n: f"{2 * (n - 1) + n:,}" for n in PEERS}
    yield "their buffers, at that peer", {n: human((2 * (n - 1) + n) * CHANNEL_BUFFER) for n in PEERS}
    yield "heartbeats that each peer answers", {n: f"{2 * n - 1:,}/s" for n in PEERS}
    yield "lease renewals in etcd, 1,000 volumes open", {
        n: f"{n * LEASE_RENEWALS['peer'] + volumes * LEASE_RENEWALS['volume']:,.0f}/s" for n in PEERS}
    yield "the view that every process reads", {n: human(view[n]) for n in PEERS}
    yield "changes of it, peers' use of space", {n: f"{updates[n]:.2g}/s" for n in PEERS}
    yield "what etcd sends for them to all", {n: human(updates[n] * 2 * n * view[n]) + "/s" for n in PEERS}


def table():
    lines = ["| peers | " + " | ".join(f"{n:,}" for n in PEERS) + " |", "|---" * (len(PEERS) + 1) + "|"]
    for name, values in rows():
        lines.append(f"| {name} | " + " | ".join(values[n] for n in PEERS) + " |")
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:2] == ["--check"] and len(sys.argv) == 3:
        with open(sys.argv[2]) as file:
            if table() not in file.read():
                sys.exit(f"{sys.argv[2]} does not have the table that {sys.argv[0]} prints:\n{table()}")
        return
    if len(sys.argv) > 1:
        sys.exit(__doc__.strip())
    print(table(), end="")


if __name__ == "__main__":
    main()
