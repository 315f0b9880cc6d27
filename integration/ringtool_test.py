#!/usr/bin/python3
"""ringtool: its figures add up, its output is the same every time, bad input gets one clear line.

Method: command lines whose outcome follows from arithmetic, as JSON; those of docs/placement.md; a table of wrong ones.
Usage: ringtool_test.py BIN_DIR
"""
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "docs")
KIB, GIB, TIB = 1 << 10, 1 << 30, 1 << 40


def ringtool(*args):
    return subprocess.run([os.path.join(sys.argv[1], "ringtool"), *args], capture_output=True, text=True, timeout=60)


def figures(*args):
    done = ringtool("--json", *args)
    assert done.returncode == 0 and done.stderr == "", (args, done)
    return json.loads(done.stdout)


def near(value, wanted, tolerance):
    assert abs(value - wanted) <= tolerance, (value, wanted)


def check_growth():
    """30 nodes and one more: every ring keeps all copies; placement sends the least, mod nearly all."""
    result = figures("--ring", "all", "--nodes", "30", "--delta", "1", "--rep", "3", "--total-data", "64GiB",
                     "--block-size", "64KiB")
    blocks = result["blocks"]
    assert blocks == 64 * GIB // (64 * KIB) == result["sampled_blocks"]
    rings = {ring["ring"]: ring for ring in result["rings"]}
    assert list(rings) == ["placement", "unbalanced", "ketama", "mod"]
    for name, ring in rings.items():
        change = ring["change"]
        assert change["blocks_kept"] + change["blocks_sent"] == 3 * blocks, name
        assert change["blocks_kept"] + change["blocks_dropped"] == 3 * blocks, name
        assert change["traffic_size"] == change["blocks_sent"] * 64 * KIB, name
        near(change["perfect_traffic_size"], 3 * 64 * GIB / 31, 1)
        near(ring["before"]["mean_size"], 3 * 64 * GIB / 30, 1)
        assert ring["before"]["emptiest"] <= 1 <= ring["before"]["fullest"], name
        assert [loss["failed_nodes"] for loss in ring["loss"]] == [3, 4, 5], name
        chances = [loss["chance"] for loss in ring["loss"]]
        assert chances == sorted(chances), name
        near(chances[0], ring["replica_sets"] / 4060, 1e-12)
        assert ring["lookup_ns"] > 0 and ring["order_ns"] > 0
    near(rings["placement"]["change"]["traffic_over_perfect"], 1, 0.05)
    near(rings["placement"]["before"]["fullest"], 1, 0.03)
    assert rings["unbalanced"]["before"]["fullest"] > 1.03 and rings["ketama"]["before"]["fullest"] > 1.03
    assert rings["mod"]["change"]["traffic_over_perfect"] > 20 and rings["mod"]["replica_sets"] == 30


def check_copies_weights_zones():
    """More copies, fewer nodes, weights and zones: what must be sent is known."""
    more = figures("--nodes", "6", "--delta", "0", "--rep", "2", "--repEnd", "3")["rings"][0]
    near(more["change"]["traffic_size"], TIB, TIB / 50)
    assert more["change"]["blocks_dropped"] == 0
    fewer = figures("--nodes", "6", "--delta", "-2", "--rep", "2")["rings"][0]
    assert (fewer["before"]["nodes"], fewer["after"]["nodes"]) == (6, 4)
    near(fewer["change"]["perfect_traffic_size"], 2 * TIB / 3, 1)
    same = figures("--nodes", "6", "--delta", "0")["rings"][0]["change"]
    assert same["blocks_sent"] == 0 and same["traffic_over_perfect"] is None

    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "weights")
        with open(path, "w", encoding="utf-8") as file:
            file.write("# small ones\n1x4\n2, 2  # large ones\n")
        weighted = figures("--nodes", "6", "--delta", "0", "--rep", "1", "--weights", "@" + path, "--peers")
    assert [node["weight"] for node in weighted["nodes"]] == [1, 1, 1, 1, 2, 2]
    for size, weight in zip(weighted["rings"][0]["before"]["node_sizes"], [1, 1, 1, 1, 2, 2]):
        near(size, TIB * weight / 8, TIB / 200)
    # Two zones, two copies: one in each, so the only node of its zone has every block.
    zones = figures("--nodes", "4", "--delta", "0", "--zones", "1,3", "--peers")
    assert [node["zone"] for node in zones["nodes"]] == ["zone-1", "zone-2", "zone-2", "zone-2"]
    assert zones["rings"][0]["before"]["node_sizes"][0] == TIB
    assert figures("--ring", "single", "--nodes", "1", "--delta", "0", "--rep", "1")["rings"][0]["replica_sets"] == 1


def check_repeatable():
    args = ["--ring", "all", "--nodes", "50", "--rep", "3", "--sample", "20000", "--peers", "--no-times"]
    for form in ([], ["--json"]):
        once = ringtool(*args, *form)
        assert once.returncode == 0 and once.stdout == ringtool(*args, *form).stdout
        assert once.stdout != ringtool(*args, *form, "--seed", "2").stdout
        assert "lookup" not in once.stdout and "time to find" not in once.stdout
    assert "time to find" in ringtool("--nodes", "3", "--sample", "1000").stdout
    assert json.loads(once.stdout)["sampled_blocks"] == 20000


def check_plot():
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "load.svg")
        for nodes in ("3", "1000"):
            done = ringtool("--ring", "ketama,mod", "--nodes", nodes, "--delta", "1", "--sample", "20000", "--plot", path)
            assert done.returncode == 0, done
            svg = ElementTree.parse(path).getroot()
            texts = "".join(svg.itertext())
            assert svg.tag.endswith("svg") and "ketama" in texts and "mod" in texts, texts
            paths = [one for one in svg.iter() if one.tag.endswith("path") and one.get("fill")]
            assert len(paths) == 4  # before and after, of two rings
            if nodes == "3":
                assert [one.get("d").count("M") for one in paths] == [3, 4, 3, 4]


def check_bad_input():
    table = [
        ([], "--nodes"),
        (["--nodes", "0"], "at least 1"),
        (["--nodes", "many"], "--nodes"),
        (["--nodes", "20000"], "at most 16384"),
        (["--nodes", "3", "--delta", "-3"], "leaves none"),
        (["--nodes", "3", "--delta", "9223372036854775807"], "at most 16384"),
        (["--nodes", "2", "--rep", "3"], "--rep 3"),
        (["--nodes", "4", "--delta", "-2", "--rep", "3"], "after the change"),
        (["--nodes", "4", "--rep", "0"], "one copy"),
        (["--nodes", "4", "--rep-end", "9"], "--rep-end 9"),
        (["--nodes", "4", "--rep-end", "-1"], "--rep-end"),
        (["--nodes", "40", "--rep", "17"], "at most 16 copies"),
        (["--nodes", "4", "--zones", "5"], "5 zones need as many nodes"),
        (["--nodes", "4", "--zones", "0"], "--zones"),
        (["--nodes", "4", "--zones", "2,2"], "room for 4 nodes, there are 6"),
        (["--nodes", "4", "--zones", "a,b"], "'a'"),
        (["--nodes", "4", "--weights", "1,x,2"], "'x'"),
        (["--nodes", "4", "--weights", "1,,2"], "''"),
        (["--nodes", "4", "--weights", "0"], "'0'"),
        (["--nodes", "4", "--weights", "-1"], "'-1'"),
        (["--nodes", "4", "--weights", "1x"], "'1x'"),
        (["--nodes", "4", "--weights", "1x7"], "more than 6 weights"),
        (["--nodes", "4", "--weights", "@/nowhere/weights"], "/nowhere/weights"),
        (["--nodes", "4", "--weights", "@/"], "reading the weights"),
        (["--nodes", "4", "--weights", "@/dev/null"], "no weight"),
        (["--nodes", "4", "--ring", "rendezvous"], "'rendezvous' is none of"),
        (["--nodes", "4", "--ring", "mod,mod"], "twice"),
        (["--nodes", "4", "--ring", "single"], "one member"),
        (["--nodes", "4", "--groups", "100"], "power of two"),
        (["--nodes", "4", "--block-size", "0"], "--block-size"),
        (["--nodes", "4", "--block-size", "2GiB", "--total-data", "1GiB"], "--total-data"),
        (["--nodes", "4", "--total-data", "lots"], "lots"),
        (["--nodes", "4", "--total-data", "3000PiB"], "4 EiB"),
        (["--nodes", "4", "--rewrite-edge", "101"], "--rewrite-edge"),
        (["--nodes", "4", "--sample", "0"], "--sample"),
        (["--nodes", "4", "--failures", "5"], "'5'"),
        (["--nodes", "4", "--plot", "/nowhere/load.svg"], "/nowhere/load.svg"),
        (["--nodes", "4", "--frob"], "--frob"),
        (["4"], "'4'"),
    ]
    for args, words in table:
        done = ringtool(*args)
        assert done.returncode == 1 and done.stdout == "", (args, done)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("ringtool: ") and words in lines[0], (args, lines)


def documented_commands():
    """Of docs/placement.md: each command in an indented block, and what it prints, if the block has more lines."""
    commands = []
    with open(os.path.join(DOCS, "placement.md"), encoding="utf-8") as file:
        lines = file.read().split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("    ringtool "):
            continue
        end = number + 1
        while end < len(lines) and (lines[end].startswith("    ") or not lines[end]):
            end += 1
        output = "\n".join(one[4:] for one in lines[number + 2:end])
        commands.append((line.split()[1:], output.rstrip("\n")))
    return commands


def check_documentation():
    """Figures and pictures of docs/placement.md are what their commands make."""
    commands = documented_commands()
    assert len(commands) >= 3 and commands[0][1], commands
    with tempfile.TemporaryDirectory() as scratch:
        for args, output in commands:
            at = args.index("--plot") + 1
            shown, args[at] = os.path.join(DOCS, os.path.basename(args[at])), os.path.join(scratch, "made.svg")
            done = ringtool(*args)
            assert done.returncode == 0, done
            if output:
                assert done.stdout.rstrip("\n") == output, f"{args} prints\n{done.stdout}\nand not\n{output}"
            with open(shown, encoding="utf-8") as old, open(args[at], encoding="utf-8") as new:
                assert old.read() == new.read(), f"{shown} is not what {args} makes"


def main():
    for check in (check_growth, check_copies_weights_zones, check_repeatable, check_plot, check_bad_input,
                  check_documentation):
        check()
        print("ok:", check.__name__[6:].replace("_", " "))
    done = ringtool("--help")
    assert done.returncode == 0 and "--rep-end" in done.stdout and "Example:" in done.stdout


if __name__ == "__main__":
    main()
