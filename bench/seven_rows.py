#!/usr/bin/python3
"""The seven workloads of nbd-bench against the raw disk, nbdkit's memory, `agro standalone` and three peers with agroblock.

Each round takes all four on fresh directories, one after the other; printed are the medians of the rounds, all rounds in
brackets, and the bars, which are shares of what the raw disk and nbdkit did in the same sitting. R=2, NBD over Unix sockets,
a volume of 1 GiB, four times the client's cache. Needs a quiet machine; some two minutes a round.
Example: bench/seven_rows.py build/bench/bin --rounds 3
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

from flat_rig import ManyProcesses, OneProcess
from agro_testlib import GIB, Process, need_tools, run, scratch_dir, wait_for

CACHE = "256MiB"
PEER_SIZE = 4 * GIB
ROWS = ("seqwrite-1m-q8", "seqread-1m-q8", "randwrite-4k-q1-fsync", "randwrite-4k-q32", "randread-4k-q1", "randread-4k-q32",
        "randrw-4k-q32")
# row: of what its bar is a share ("raw", "nbdkit", or None for a fixed figure), for standalone, for three processes
BARS = {"seqwrite-1m-q8": ("raw", 0.8 / 2, 0.7 / 2), "seqread-1m-q8": ("nbdkit", 0.9, 0.6),
        "randwrite-4k-q1-fsync": ("raw", 1 / 2, 1 / 3), "randwrite-4k-q32": (None, 100_000, 70_000),
        "randread-4k-q1": ("nbdkit", 0.9, 0.4), "randread-4k-q32": ("nbdkit", 1.0, 0.5), "randrw-4k-q32": ("nbdkit", 0.75, 0.45)}
LEAST = {"randread-4k-q32": 60_000}  # of three processes, whatever nbdkit does
# The raw disk's rows: fio's options on a file that was written before.
RAW = {"seqwrite-1m-q8": ("--ioengine=libaio", "--direct=1", "--rw=write", "--bs=1M", "--iodepth=8"),
       "randwrite-4k-q1-fsync": ("--ioengine=psync", "--rw=randwrite", "--bs=4k", "--fdatasync=1"),
       "randwrite-4k-q32": ("--ioengine=libaio", "--direct=1", "--rw=randwrite", "--bs=4k", "--iodepth=32")}


def figure(row, iops, mib):
    return mib if row.endswith("1m-q8") else iops


def raw_disk(directory, seconds):
    file = f"{directory}/raw"
    run(["fio", "--name=fill", f"--filename={file}", "--size=2G", "--rw=write", "--bs=1M", "--end_fsync=1"])
    figures = {}
    for row, options in RAW.items():
        text = run(["fio", f"--name={row}", f"--filename={file}", "--size=2G", "--output-format=json", "--time_based",
                    f"--runtime={seconds}", *options]).stdout
        write = json.loads(text[text.index("{"):])["jobs"][0]["write"]
        figures[row] = figure(row, write["iops"], write["bw_bytes"] / 2**20)
    os.remove(file)
    return figures


def nbd_bench(script, uri, seconds):
    """Its rows; a row that failed is an error."""
    text = run([script, "agro", uri, str(seconds), "1G"], timeout=900).stdout
    found = re.findall(r"^agro +(\S+) +(\d+) iops +([\d.]+) MiB/s .* err (\d+)$", text, re.M)
    figures = {row: figure(row, float(iops), float(mib)) for row, iops, mib, error in found if error == "0"}
    assert set(figures) == set(ROWS), text
    return figures


def nbdkit(directory, script, seconds):
    server = Process(["nbdkit", "-f", "-U", f"{directory}/nbdkit.sock", "memory", "1G"], f"{directory}/nbdkit.log")
    try:
        wait_for("nbdkit listens", lambda: os.path.exists(f"{directory}/nbdkit.sock"), 10)
        return nbd_bench(script, f"nbd+unix:///?socket={directory}/nbdkit.sock", seconds)
    finally:
        server.terminate()


def agro(rig_class, options, directory):
    rig = rig_class(options.bin_dir, directory, {"demo": str(GIB)}, PEER_SIZE, read_cache=CACHE)
    figures = nbd_bench(options.nbd_bench, rig.uri("demo"), options.seconds)
    rig.stop()
    return figures


def one_round(options):
    directory = scratch_dir(options.dir)
    seconds = options.seconds
    figures = {"raw": raw_disk(directory, seconds), "nbdkit": nbdkit(directory, options.nbd_bench, seconds),
               "standalone": agro(OneProcess, options, f"{directory}/one"),
               "three": agro(ManyProcesses, options, f"{directory}/three")}
    subprocess.run(["rm", "-rf", directory], check=True)
    return figures


def bar(row, column, medians):
    of, *shares = BARS[row]
    share = shares[0 if column == "standalone" else 1]
    least = LEAST.get(row, 0) if column == "three" else 0
    return max(least, share * (medians[of][row] if of else 1))


def cell(values):
    middle = statistics.median(values)
    return f"{middle:,.0f} (" + ", ".join(f"{value:,.0f}" for value in values) + ")"


def table(rounds):
    names = ("raw", "nbdkit", "standalone", "three")
    medians = {name: {row: statistics.median(one[name][row] for one in rounds) for row in rounds[0][name]} for name in names}
    print("| row | raw disk | nbdkit memory | standalone | bar | three processes | bar |\n|---|---|---|---|---|---|---|")
    for row in ROWS:
        cells = [row, f"{medians['raw'][row]:,.0f}" if row in RAW else "", f"{medians['nbdkit'][row]:,.0f}"]
        for column in ("standalone", "three"):
            least = bar(row, column, medians)
            text = cell([one[column][row] for one in rounds])
            cells += [text if medians[column][row] >= least else f"**{text}**", f"{least:,.0f}"]
        print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin_dir", help="where agro, agroblock and agroctl are; a release build")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each workload")
    parser.add_argument("--nbd-bench", default=os.environ.get("NBD_BENCH", "../shared/tools/nbd-bench"), help="the script")
    parser.add_argument("--json", metavar="FILE", help="write all rounds there")
    parser.add_argument("--dir", help="directory for all files (default: of AGRO_TEST_DIR or TMPDIR)")
    options = parser.parse_args()
    if not os.access(os.path.join(options.bin_dir, "agro"), os.X_OK):
        parser.error(f"no agro in {options.bin_dir}: build it first")
    if not os.access(options.nbd_bench, os.X_OK):
        parser.error(f"no nbd-bench at {options.nbd_bench}: say where it is with --nbd-bench")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    need_tools("fio", "nbdkit")
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {options.rounds} rounds of {options.seconds} s, load {os.getloadavg()[0]:.1f}", flush=True)
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append(one_round(options))
        if options.json:
            with open(options.json, "w") as file:
                json.dump(rounds, file, indent=1)
    table(rounds)


if __name__ == "__main__":
    sys.exit(main())
