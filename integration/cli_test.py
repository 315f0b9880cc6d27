#!/usr/bin/env python3
# Goal: agroctl and its neighbours do what they say, in all three formats, and bad input gets one line
# and exit status 1. Method: the real programs, three peers and an NBD server on Unix sockets.
# Usage: cli_test.py BIN_DIR. Needs nothing but Python's own library.
import csv
import io
import json
import os
import random
import re
import shlex
import signal
import socket
import sqlite3
import struct
import subprocess
import sys

from agro_testlib import GIB, KIB, MIB, Process, at_exit, scratch_dir, step, wait_for

BIN = os.path.abspath(sys.argv[1])
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
CLEAN_ENV = {key: value for key, value in os.environ.items() if not key.startswith("AGRO_")}


def execute(args, data=None, env=None, timeout=30, **more):
    """Runs a program to its end; output as bytes."""
    return subprocess.run([str(arg) for arg in args], input=data, capture_output=True,
                          timeout=timeout, env=env or CLEAN_ENV, **more)


def succeed(args, **more):
    """Runs a program that must succeed; returns its standard output as text."""
    done = execute(args, **more)
    assert done.returncode == 0, f"{args} ended with {done.returncode}: {done.stderr.decode()}"
    return done.stdout.decode()


def refuse(args, *texts, **more):
    """Runs a program that must fail with status 1 and one line that holds every text."""
    done = execute(args, **more)
    error = done.stderr.decode()
    program = os.path.basename(args[0])
    assert done.returncode == 1, f"{args} ended with {done.returncode}: {done.stdout} {error}"
    assert error.count("\n") == 1 and error.endswith("\n"), f"{args}: not one line: {error!r}"
    assert error.startswith(f"{program}: "), f"{args}: {error!r}"
    for text in texts:
        assert text in error, f"{args}: {text!r} is not in {error!r}"
    return error


def program(name, *args):
    return [os.path.join(BIN, name), *args]


class Cluster:
    """A metadata store, and peers in a directory of their own."""

    def __init__(self, directory):
        self.directory = directory
        self.store = os.path.join(directory, "meta.db")
        self.uri = "sqlite:" + self.store
        self.peers = {}

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def args(self, *args):
        return program("agroctl", "-C", self.uri, *args)

    def ctl(self, *args, **more):
        if args[0] == "status":  # peers that came or went just now are looked after first
            healthy = lambda: execute(self.args(*args), **more).returncode == 0
            wait_for("the cluster is healthy", healthy, timeout=30)
        return succeed(self.args(*args), **more)

    def refuse(self, args, *texts, **more):
        return refuse(self.args(*args), *texts, **more)

    def json(self, *args):
        return json.loads(self.ctl(*args, "--json"))

    def csv(self, *args):
        return list(csv.DictReader(io.StringIO(self.ctl(*args, "--csv"), newline="")))

    def peer_args(self, name, *more):
        return program("agro", "--metadata", self.uri, "--data-dir", self.path(name),
                       "--peer-address", "adp+unix:" + self.path(name + ".sock"),
                       "--size", "1GiB", *more)

    def start_peer(self, name, *more):
        peer = Process(self.peer_args(name, *more), self.path(name + ".log"), env=CLEAN_ENV)
        self.peers[name] = peer
        found = wait_for(f"peer {name} is ready", lambda: self._ready(peer))
        peer.id = UUID.search(found).group()
        return peer

    @staticmethod
    def _ready(peer):
        assert peer.alive(), f"{peer.args} ended: {peer.log()}"
        return next((line for line in peer.log().splitlines() if ": peer " in line), None)

    def stop_peers(self):
        for name, peer in self.peers.items():
            if peer.alive():
                status = peer.terminate()
                assert status == 0, f"peer {name} ended with {status}: {peer.log()}"


class NbdConnection:
    """Just enough of an NBD client: opens an export by its name and reads."""

    def __init__(self, path, export):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(10)
        self.stream.connect(path)
        assert self._receive(16) == b"NBDMAGICIHAVEOPT"
        self._receive(2)
        name = export.encode()
        self.stream.sendall(struct.pack(">I", 3))  # fixed newstyle, no zeroes
        self.stream.sendall(b"IHAVEOPT" + struct.pack(">II", 1, len(name)) + name)
        self.size, self.flags = struct.unpack(">QH", self._receive(10))

    def _receive(self, count):
        data = b""
        while len(data) < count:
            part = self.stream.recv(count - len(data))
            assert part, "the NBD server ended the connection"
            data += part
        return data

    def read(self, offset, size):
        self.stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, offset, size))
        magic, error, handle = struct.unpack(">IIQ", self._receive(16))
        assert (magic, error, handle) == (0x67446698, 0, 7)
        return self._receive(size)

    def close(self):
        self.stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 8, 0, 0))
        self.stream.close()


# --- without a cluster ---

def command_paths():
    """Every command there is, as the completion script knows them."""
    script = succeed(program("agroctl", "completion", "bash"))
    paths = set(re.findall(r"^    '(agroctl[^']*)'\) words=", script, re.M))
    assert {"agroctl", "agroctl volume list", "agroctl block load", "agroctl peer add",
            "agroctl list-peers", "agroctl ring get", "agroctl wipe"} <= paths, paths
    return sorted(paths)


def test_help_everywhere():
    step("every command explains itself")
    for path in command_paths():
        words = path.split()[1:]
        text = succeed(program("agroctl", *words, "--help"))
        assert "--help" in text and "Usage:" in text, (path, text)
        refuse(program("agroctl", *words, "--no-such-flag"))
    assert re.fullmatch(r"agroctl \d+\.\d+\.\d+\n", succeed(program("agroctl", "version")))
    assert succeed(program("agroctl", "--version")) == succeed(program("agroctl", "version"))


def test_usage_errors(directory):
    step("bad command lines")
    ctl = program("agroctl")
    refuse(ctl, "subcommand")
    refuse(ctl + ["frobnicate"], "'frobnicate' is no command", "agroctl --help")
    refuse(ctl + ["volume"], "subcommand")
    refuse(ctl + ["volume", "lst"], "'lst' is no command")
    refuse(ctl + ["volume", "create-block", "--blocks"], "'--blocks' is no command or option")
    refuse(ctl + ["volume", "list", "--json", "--csv"], "--csv")
    refuse(ctl + ["volume", "create-block", "demo"], "size")
    refuse(ctl + ["volume", "create-block", "demo", "1XB"], "'1XB' is not a size", "10GiB")
    refuse(ctl + ["volume", "create-block", "demo", "-5"])
    refuse(ctl + ["volume", "create-block", "demo", "1GiB", "--replication", "0"], "--replication")
    refuse(ctl + ["completion", "tcsh"], "tcsh")
    refuse(ctl + ["init", "--block-size", "100KiB"], "power of two from 64KiB to 16MiB")
    refuse(ctl + ["init", "--block-spec", "base,crc"], "--block-spec")
    refuse(ctl + ["init", "--block-spec", "gzip,base"], "gzip")
    refuse(ctl + ["init", "--ring", "union"], "union")
    refuse(ctl + ["init", "--groups", "100"], "power of two up to 65536")
    refuse(ctl + ["init", "--groups", "64", "--ring", "mod"], "only a placement ring")
    refuse(ctl + ["init", "--ring", "single"], "--replication 1")
    refuse(ctl + ["peer", "add", "x", "--weight", "0"], "--weight")
    refuse(ctl + ["peer", "drain"], "peers")
    refuse(ctl + ["ring", "set-replication", "17"], "16")
    step("metadata stores that are none")
    refuse(ctl + ["volume", "list"], "--metadata sqlite:PATH", "AGRO_METADATA",
           env={**CLEAN_ENV, "HOME": directory})
    refuse(ctl + ["-C", "temp:", "volume", "list"], "sqlite:PATH")
    refuse(ctl + ["-C", "etcd://localhost:1", "volume", "list"], "no etcd answers at localhost:1")
    refuse(ctl + ["-C", "mysql:x", "volume", "list"], "mysql:x", "sqlite:PATH")
    missing = os.path.join(directory, "none", "meta.db")
    refuse(ctl + ["-C", "sqlite:" + missing, "volume", "list"], missing, "init")
    assert not os.path.exists(os.path.dirname(missing))
    refuse(ctl + ["-C", "sqlite:/proc/none/meta.db", "init"], "/proc/none")


def complete(script, *words):
    """What bash offers for the last of `words`."""
    line = " ".join(shlex.quote(word) for word in words)
    body = (f"{script}\nCOMP_WORDS=(agroctl {line}); COMP_CWORD={len(words)}; _agroctl\n"
            'printf "%s\\n" "${COMPREPLY[@]}"')
    return succeed(["bash", "-euc", body]).split()


def test_completion():
    step("completion scripts")
    script = succeed(program("agroctl", "completion", "bash"))
    assert complete(script, "vol") == ["volume"]
    assert set(complete(script, "volume", "")) >= {"create-block", "list", "delete"}
    assert complete(script, "-C", "sqlite:x", "peer", "rem") == ["remove"]
    assert complete(script, "peer", "remove", "--fo") == ["--force"]
    assert complete(script, "volume", "list", "--js") == ["--json"]
    for shell, syntax_check in (("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        text = succeed(program("agroctl", "completion", shell))
        assert "create-block" in text and "--yes-i-am-sure" in text
        if any(os.access(os.path.join(folder, shell), os.X_OK)
               for folder in os.environ["PATH"].split(":")):
            succeed(syntax_check + ["/dev/stdin"], data=text.encode())


def test_documentation():
    step("manual pages and completions of all programs, as packages have them")
    for name in ("agro", "agroblock", "agroctl", "ringtool"):
        page = succeed(program(name, "--print-man-page"))
        assert page.startswith(f".TH {name.upper()} 8") and ".SH OPTIONS" in page
        help_text = succeed(program(name, "--help"))
        for option in re.findall(r"--[a-z][a-z-]+", help_text):
            assert option.replace("-", "\\-") in page, f"{name}: {option} is not in its page"
        if any(os.access(os.path.join(folder, "mandoc"), os.X_OK) for folder in os.environ["PATH"].split(":")):
            flaws = [line for line in subprocess.run(["mandoc", "-Tlint", "-W", "warning"], input=page, text=True,
                                                     capture_output=True).stdout.splitlines() if "missing date" not in line]
            assert not flaws, flaws
        assert name in succeed(program(name, "--print-completion", "bash"))
    script = succeed(program("agroctl", "--print-completion", "bash"))
    assert script == succeed(program("agroctl", "completion", "bash"))


# --- the cluster's metadata ---

def test_init(cluster):
    step("init")
    nested = Cluster(cluster.path("deep", "er"))
    assert UUID.fullmatch(nested.ctl("init").strip())
    made = cluster.ctl("init", "--block-size", "256KiB", "--replication", "2",
                       "--groups", "256").strip()
    assert UUID.fullmatch(made)
    assert cluster.json("ring", "get") == {
        "version": 1, "kind": "empty", "replication": 2, "planned_kind": "placement",
        "group_count": 256, "members": []}
    cluster.refuse(["init"], "already holds cluster", made, "wipe")


def test_profiles(cluster):
    step("config file with profiles, and the environment")
    config = cluster.path("config.toml")
    with open(config, "w") as file:
        file.write(f'default_profile = "here"\n[profiles.here]\nmetadata = "{cluster.uri}"\n'
                   '[profiles.there]\nmetadata = "sqlite:/nonexistent/meta.db"\n')
    listing = program("agroctl", "volume", "list", "--json")
    for args, env in ((["--config", config], {}), ([], {"AGRO_CONFIG": config}),
                      (["--config", config, "--profile", "here"], {}),
                      ([], {"AGRO_METADATA": cluster.uri})):
        assert succeed(listing + args, env={**CLEAN_ENV, **env}) == "[]\n"
    home = cluster.path("home")
    os.makedirs(os.path.join(home, ".config/agro"))
    os.link(config, os.path.join(home, ".config/agro/config.toml"))
    assert succeed(listing, env={**CLEAN_ENV, "HOME": home}) == "[]\n"
    refuse(listing + ["--config", config, "--profile", "there"], "/nonexistent/meta.db")
    refuse(listing + ["--config", config, "--profile", "nowhere"], "[profiles.nowhere]")
    refuse(listing + ["--config", config + ".none"], "does not exist")
    with open(config + ".bad", "w") as file:
        file.write("x = 1\n[profiles\n")
    refuse(listing + ["--config", config + ".bad"], "line 2")


def test_empty_listings(cluster):
    step("listings of an empty cluster")
    assert "create-block" in cluster.ctl("volume", "list")
    assert "no peers" in cluster.ctl("peer", "list")
    assert cluster.ctl("list-peers") == cluster.ctl("peer", "list")
    for what in (["volume", "list"], ["peer", "list"]):
        assert cluster.json(*what) == []
        lines = cluster.ctl(*what, "--csv").splitlines()
        assert len(lines) == 1 and lines[0].count(",") > 4, lines
    assert "kind empty, 2 copies" in cluster.ctl("ring", "get")
    cluster.refuse(["status"], "not healthy", "no members")
    assert "becomes placement" in cluster.ctl("ring", "get")
    cluster.refuse(["peer", "add", "--all-peers"], "no peer has registered")
    cluster.refuse(["block", "load", "/bin/sh", "demo"], "no members")
    assert cluster.json("volume", "list") == []


def test_volumes(cluster):
    step("volumes")
    assert "created volume demo, 64.0 MiB" in cluster.ctl("volume", "create-block", "demo", "64MiB")
    cluster.ctl("block", "create", "second", "1G", "--block-spec", "crc,base")
    cluster.ctl("volume", "create-block", "status", "4096")  # named as a command is
    cluster.refuse(["volume", "create-block", "demo", "64MiB"], "'demo' exists already")
    cluster.refuse(["volume", "create-block", "odd", "5000"], "multiples of 4096", "use 8192")
    cluster.refuse(["volume", "create-block", "odd", "0"], "use 4096")
    cluster.refuse(["volume", "create-block", "odd", "100PiB"], "1 PiB")
    cluster.refuse(["volume", "create-block", "a/b", "1MiB"], "'a/b' is no volume name")
    cluster.refuse(["volume", "create-block", "odd", "1MiB", "--replication", "3"], "3 copies")
    cluster.refuse(["volume", "create-block", "odd", "1MiB", "--block-spec", "crc,replication=3,base"],
                   "3 copies")
    cluster.refuse(["volume", "create-block", "odd", "1MiB", "--block-spec", "crc,replication=3,base",
                    "--replication", "2"], "differ")
    cluster.refuse(["volume", "create-block", "odd", "1MiB", "--block-spec", "ec=2+1,base"], "ec")
    volumes = {volume["name"]: volume for volume in cluster.json("volume", "list")}
    assert set(volumes) == {"demo", "second", "status"}
    assert volumes["demo"]["size_bytes"] == 64 * MIB and volumes["second"]["size_bytes"] == GIB
    assert volumes["demo"]["copies"] == 2 and volumes["demo"]["open_by"] is None
    assert volumes["demo"]["block_spec"] == "crc,base"
    rows = {row["name"]: row for row in cluster.csv("volume", "list")}
    assert rows["second"]["size_bytes"] == str(GIB) and rows["second"]["open_by"] == ""
    text = cluster.ctl("volume", "list").splitlines()
    assert text[0].split()[:2] == ["NAME", "SIZE"] and "64.0 MiB" in text[1]
    assert "deleted volume status" in cluster.ctl("volume", "delete", "status")
    cluster.ctl("volume", "delete", "second")
    cluster.refuse(["volume", "delete", "second"], "no volume 'second'", "volume list")
    cluster.refuse(["block", "dump", "second", cluster.path("x")], "no volume 'second'")
    assert not os.path.exists(cluster.path("x"))


# --- peers and the ring ---

def settle(cluster):
    """Returns when no change of the ring is under way."""
    wait_for("the ring settles", lambda: cluster.json("ring", "get")["kind"] != "union", timeout=30)


def test_peers(cluster):
    step("three peers; two join by themselves")
    cluster.start_peer("p1", "--auto-join", "--zone", 'a,"1"', "--rack", "r1", "--host-label", "h1")
    cluster.start_peer("p2", "--auto-join")
    p3 = cluster.start_peer("p3")
    peers = {peer["id"]: peer for peer in cluster.json("peer", "list")}
    assert {peer.id for peer in cluster.peers.values()} == set(peers)
    p1 = peers[cluster.peers["p1"].id]
    assert p1["addresses"] == ["adp+unix:" + cluster.path("p1.sock")]
    assert (p1["size_bytes"], p1["in_ring"], p1["state"]) == (GIB, True, "alive")
    assert (p1["zone"], p1["rack"], p1["host"]) == ('a,"1"', "r1", "h1")
    assert isinstance(p1["used_bytes"], int) and re.match(r"\d{4}-\d\d-\d\dT.*Z$", p1["updated"])
    assert (p1["member"], p1["rebalance_bytes_per_second"]) == ("in ring", 0)
    assert peers[p3.id]["in_ring"] is False and peers[p3.id]["member"] == "not in ring"
    rows = {row["id"]: row for row in cluster.csv("list-peers")}
    assert rows[p1["id"]]["zone"] == 'a,"1"' and rows[p3.id]["in_ring"] == "false"
    text = cluster.ctl("peer", "list")
    assert all(peer in text for peer in peers) and "alive" in text and "1.0 GiB" in text
    step("peer add")
    cluster.refuse(["peer", "add"], "--all-peers")
    cluster.refuse(["peer", "add", "nonsense"], "neither", "UUID")
    cluster.refuse(["peer", "add", "adp://127.0.0.1:1"], "no peer adp://127.0.0.1:1", "peer list")
    cluster.refuse(["peer", "add", p1["id"]], "in the ring already")
    assert p3.id in cluster.ctl("peer", "add", "--all-peers")
    settle(cluster)
    assert "nothing to add" in cluster.ctl("peer", "add", "--all-peers")
    assert p3.id in cluster.ctl("peer", "remove", "adp+unix:" + cluster.path("p3.sock"))
    settle(cluster)
    cluster.refuse(["peer", "remove", p3.id], "not in the ring")
    assert p3.id in cluster.ctl("peer", "add", "adp+unix:" + cluster.path("p3.sock"))
    assert re.search(r"^Balanced: (true|false) Usage: \d+\.\d\d%$", cluster.ctl("peer", "list"), re.M)
    settle(cluster)


def test_ring_and_status(cluster):
    step("ring get and status")
    ids = {peer.id for peer in cluster.peers.values()}
    ring = cluster.json("ring", "get")
    assert ring["kind"] == "placement" and ring["replication"] == 2 and ring["version"] >= 4
    assert ring["group_count"] == 256
    p1 = next(member for member in ring["members"] if member["id"] == cluster.peers["p1"].id)
    assert (p1["zone"], p1["rack"], p1["host"]) == ('a,"1"', "r1", "h1")
    assert {member["id"] for member in ring["members"]} == ids
    assert all(member["weight"] == 1 and len(member["addresses"]) == 1 for member in ring["members"])
    rows = cluster.csv("ring", "get")
    assert {row["id"] for row in rows} == ids and {row["kind"] for row in rows} == {"placement"}
    assert "kind placement, 2 copies of each block, 256 groups" in cluster.ctl("ring", "get")
    text = cluster.ctl("status")
    assert text.rstrip().endswith("healthy") and text.count("well") == 3, text
    status = cluster.json("status")
    assert status["healthy"] is True and status["cluster"]["block_size_bytes"] == 256 * KIB
    assert UUID.fullmatch(status["cluster"]["id"]) and status["ring"]["member_count"] == 3
    assert all(peer["reachable"] and peer["alive"] for peer in status["peers"])
    assert [volume["name"] for volume in status["volumes"]] == ["demo"]
    assert status["balanced"] is True
    assert (status["ring"]["replica_set_count"], status["ring"]["loss_chance"]) == (3, 1.0)
    assert "3 distinct replica sets: when 2 random peers are lost" in text and "100 %" in text
    kinds = [row["kind"] for row in cluster.csv("status")]
    assert kinds[:5] == ["cluster", "peer", "peer", "peer", "volume"]


def test_ring_changes(cluster):
    step("weights, copies, kinds; what is refused")
    p1, p2, p3 = (cluster.peers[name] for name in ("p1", "p2", "p3"))
    cluster.refuse(["ring", "set-replication", "2"], "like that already")
    cluster.refuse(["ring", "set-replication", "4"], "the ring has 3", "--force")
    assert "3 copies" in cluster.ctl("ring", "set-replication", "3")
    settle(cluster)
    assert cluster.json("ring", "get")["replication"] == 3
    cluster.refuse(["peer", "drain", p3.id], "2 would be left for 3 copies")
    cluster.ctl("ring", "set-replication", "2")
    settle(cluster)
    assert p3.id in cluster.ctl("peer", "drain", p3.id)
    settle(cluster)
    assert p3.id not in json.dumps(cluster.json("ring", "get"))
    cluster.refuse(["peer", "drain", p3.id], "not in the ring")
    assert "3 members" in cluster.ctl("peer", "add", p3.id, "--weight", "5")
    settle(cluster)
    step("manual changes")
    ring = cluster.json("ring", "get")
    weights = {member["id"]: member["weight"] for member in ring["members"]}
    assert weights == {p1.id: 1, p2.id: 1, p3.id: 5}
    cluster.refuse(["ring", "manual-change"], "--file", "--type")
    cluster.refuse(["ring", "manual-change", "--file", cluster.path("none.json")], "No such file")
    file = cluster.path("ring.json")

    def change(text, *texts):
        with open(file, "w") as out:
            out.write(text if isinstance(text, str) else json.dumps(text))
        args = ["ring", "manual-change", "--file", file]
        return cluster.refuse(args, *texts) if texts else cluster.ctl(*args)

    change("{", "no JSON object")
    change({"kind": "round"}, "no kind of ring")
    change({**ring, "replication": "2"}, "'replication'")
    change({**ring, "members": [{"id": "x"}]}, "no UUID")
    change({**ring, "group_count": 512}, "256 groups", "--force")
    change({**ring, "overrides": [{"group": 1, "members": [p1.id]}]}, "2 distinct members")
    change(ring, "like that already")
    for member in ring["members"]:
        member["weight"] = 1
    change({**ring, "overrides": [{"group": 7, "members": [p3.id, p1.id]}]})
    settle(cluster)
    after = cluster.json("ring", "get")
    assert after["overrides"] == [{"group": 7, "members": [p3.id, p1.id]}]
    assert {member["weight"] for member in after["members"]} == {1}
    step("another kind, and back")
    cluster.ctl("ring", "change", "--type", "ketama")
    settle(cluster)
    assert cluster.json("ring", "get")["kind"] == "ketama"
    wait_for("it is healthy", lambda: execute(cluster.args("status")).returncode == 0, timeout=30)
    cluster.refuse(["ring", "change", "--type", "union"], "not a union")
    cluster.ctl("ring", "change", "--type", "placement")
    settle(cluster)
    assert cluster.json("ring", "get")["group_count"] == 4096


# --- images ---

def make_sparse_image(path, size, seed=1):
    """Data at odd places, holes, a page of written zeros, and an end off the page."""
    source = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length in ((0, 5000), (3 * MIB + 123, 700_000), (20 * MIB, 64 * KIB),
                               (size - 777, 777)):
            file.seek(offset)
            file.write(source.randbytes(length))
        file.seek(21 * MIB)
        file.write(bytes(64 * KIB))


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def test_load_and_dump(cluster):
    step("block load and dump of a sparse file")
    image, copy = cluster.path("image"), cluster.path("copy")
    size = 40 * MIB + 1777
    make_sparse_image(image, size)
    padded = read_file(image).ljust(40 * MIB + 4096, b"\0")
    said = cluster.ctl("block", "load", image, "loaded")
    assert "loaded" in said and "40.0 MiB" in said, said
    volume = {one["name"]: one for one in cluster.json("volume", "list")}["loaded"]
    assert volume["size_bytes"] == 40 * MIB + 4096 and volume["open_by"] is None
    cluster.ctl("block", "dump", "loaded", copy)
    assert read_file(copy) == padded
    assert os.stat(copy).st_blocks * 512 < 4 * MIB, "the copy is not sparse"
    step("through pipes")
    done = execute(cluster.args("block", "dump", "loaded", "-"))
    assert done.returncode == 0 and done.stderr == b"" and done.stdout == padded
    cluster.refuse(["block", "load", "-", "piped"], "SIZE", data=padded)
    cluster.ctl("block", "load", "-", "piped", "48MiB", data=padded)
    assert execute(cluster.args("block", "dump", "piped", "-")).stdout == padded.ljust(48 * MIB, b"\0")
    cluster.refuse(["block", "load", "-", "piped"], "more than the volume", data=bytes(48 * MIB + 1))
    step("over old data: holes and zeros must win")
    make_sparse_image(image, 40 * MIB, seed=2)
    with open(image, "r+b") as file:
        file.write(bytes(5000))
    done = execute(cluster.args("block", "load", image, "loaded", "-p"))
    assert done.returncode == 0 and b"100.0 %" in done.stderr and b"/s" in done.stderr, done.stderr
    done = execute(cluster.args("block", "dump", "-p", "loaded", copy))
    assert done.returncode == 0 and b"100.0 %" in done.stderr, done.stderr
    assert read_file(copy) == read_file(image) + padded[40 * MIB:]


def test_load_errors(cluster):
    step("what block load and dump refuse")
    image = cluster.path("image")
    cluster.refuse(["block", "load", cluster.path("nothing"), "new"], "No such file")
    cluster.refuse(["block", "load", cluster.path(), "new"], "is a directory")
    cluster.refuse(["block", "load", image, "new", "1MiB"], "does not fit")
    cluster.refuse(["block", "load", image, "new", "63MB"], "multiples of 4096")
    cluster.refuse(["block", "load", image, "demo", "1GiB"], "exists with 67108864 bytes")
    cluster.refuse(["block", "load", "/dev/null", "new"], "SIZE")
    large = cluster.path("large")
    with open(large, "wb") as file:
        file.truncate(65 * MIB)
    cluster.refuse(["block", "load", large, "demo"], "does not fit")
    assert "new" not in cluster.ctl("volume", "list")
    cluster.refuse(["block", "dump", "demo", cluster.path("none", "file")], "No such file")
    if os.path.exists("/dev/full"):
        cluster.refuse(["block", "dump", "demo", "/dev/full"], "No space left")
        done = subprocess.run(cluster.args("volume", "list"), stdout=open("/dev/full", "w"),
                              stderr=subprocess.PIPE, env=CLEAN_ENV)
        assert done.returncode == 1 and b"No space left" in done.stderr


def test_interrupt(cluster):
    step("Ctrl-C in the middle of a load gives the volume back")
    process = subprocess.Popen(cluster.args("block", "load", "-", "piped"), env=CLEAN_ENV,
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    at_exit(process.kill)
    process.stdin.write(random.Random(3).randbytes(3 * MIB))
    process.stdin.flush()
    def holder():
        volumes = {one["name"]: one for one in cluster.json("volume", "list")}
        return volumes["piped"]["open_by"]
    assert str(process.pid) in wait_for("the volume is open", holder)
    cluster.refuse(["volume", "delete", "piped"], "is open by agroctl", str(process.pid))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=15)
    assert process.returncode == 1 and error == b"agroctl: interrupted\n", (process.returncode, error)
    assert holder() is None
    cluster.ctl("volume", "delete", "piped")


# --- NBD, and what is open ---

def test_nbdserve(cluster):
    step("agroblock nbdserve; an open volume is left alone")
    path = cluster.path("nbd.sock")
    serve = program("agroblock", "--metadata", cluster.uri, "nbdserve", "-l", "unix:" + path)
    server = Process(serve, cluster.path("nbd.log"), env=CLEAN_ENV)
    wait_for("NBD is served", lambda: "serving NBD" in server.log() or not server.alive())
    connection = NbdConnection(path, "loaded")
    image = read_file(cluster.path("copy"))
    assert connection.size == len(image)
    assert connection.read(3 * MIB, 64 * KIB) == image[3 * MIB:3 * MIB + 64 * KIB]
    holder = f"agroblock on {socket.gethostname()}, pid {server.pid}"
    for args in (["volume", "delete", "loaded"], ["block", "dump", "loaded", cluster.path("x")],
                 ["block", "load", cluster.path("copy"), "loaded"], ["wipe", "--yes-i-am-sure"]):
        cluster.refuse(args, "'loaded' is open by " + holder)
    assert not os.path.exists(cluster.path("x"))
    assert holder in cluster.ctl("volume", "list") and holder in cluster.ctl("status")
    step("sockets and ports in use")
    refuse(serve, path)
    refuse(serve[:-1] + ["tcp:127.0.0.1:99999"], "tcp:127.0.0.1:99999")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refuse(serve[:-1] + [f"tcp:127.0.0.1:{port}"], str(port))
    refuse(serve + ["nosuch"], "nosuch")
    connection.close()
    assert server.terminate() == 0, server.log()
    cluster.ctl("volume", "delete", "loaded")


def test_agro_refusals(cluster, other):
    step("peers that must not start")
    refuse(program("agro", "--metadata", cluster.uri), "--data-dir is required")
    running = cluster.path("p1")
    refuse(cluster.peer_args("p1"), running)
    taken = ["--peer-address", "adp+unix:" + cluster.path("p1.sock")]
    arguments = cluster.peer_args("p9")
    arguments[arguments.index("--peer-address"):][:2] = taken
    refuse(arguments[:5] + taken + ["--size", "1GiB"], cluster.path("p1.sock"))
    refuse(cluster.peer_args("p9")[:5] + ["--peer-address", "tcp:x", "--size", "1GiB"],
           "not a peer address")
    refuse(program("agro", "--metadata", "sqlite:" + cluster.path("none.db"), "--data-dir", running,
                   *taken, "--size", "1GiB"), "none.db")
    step("a data directory of another cluster")
    other.ctl("init")
    cluster.peers["p3"].terminate()
    arguments = program("agro", "--metadata", other.uri, "--data-dir", cluster.path("p3"),
                        "--peer-address", "adp+unix:" + cluster.path("p3.sock"), "--size", "1GiB")
    refuse(arguments, "cluster")
    refuse(program("agro", "standalone", "--data-dir", cluster.path("home")), "no meta.db")


def test_standalone(directory):
    step("agro standalone in a relative directory, agroctl in another")
    command = f"cd {directory} && exec {BIN}/agro standalone --data-dir alone --size 1GiB"
    server = Process(["sh", "-c", command], os.path.join(directory, "alone.log"), env=CLEAN_ENV)
    wait_for("it is ready", lambda: "Ctrl-C stops it" in server.log() or not server.alive())
    alone = Cluster(os.path.join(directory, "alone"))
    assert "healthy" in alone.ctl("status", cwd="/")
    data = random.Random(5).randbytes(5 * MIB + 4096)
    alone.ctl("block", "load", "-", "image", "16MiB", data=data, cwd="/")
    assert execute(alone.args("block", "dump", "image", "-")).stdout == data.ljust(16 * MIB, b"\0")
    connection = NbdConnection(alone.path("nbd.sock"), "image")  # served without being asked to
    assert connection.read(MIB, 4096) == data[MIB:MIB + 4096]
    connection.close()
    alone.ctl("volume", "delete", "image")  # it is kept for a moment after its last client
    assert server.terminate() == 0, server.log()


# --- the end ---

def test_peer_loss(cluster):
    step("a dead peer shows, and what peer remove refuses")
    p1, p2, p3 = (cluster.peers[name] for name in ("p1", "p2", "p3"))
    cluster.refuse(["status"], "not healthy", p3.id, "dead")
    status = json.loads(execute(cluster.args("status", "--json")).stdout)
    assert status["healthy"] is False and any(p3.id in one for one in status["problems"])
    states = {peer["id"]: peer["state"] for peer in cluster.json("peer", "list")}
    assert states == {p1.id: "alive", p2.id: "alive", p3.id: "dead"}
    members = {peer["id"]: peer["member"] for peer in cluster.json("peer", "list")}
    assert members == {p1.id: "in ring", p2.id: "in ring", p3.id: "down"}
    cluster.refuse(["peer", "drain", p3.id], "is not running", "peer remove")
    assert "removed peer " + p3.id in cluster.ctl("peer", "remove", p3.id)
    settle(cluster)
    assert "its record is gone" in cluster.ctl("peer", "remove", p3.id)
    cluster.refuse(["peer", "remove", p3.id], "no peer " + p3.id)
    assert "healthy" in cluster.ctl("status")
    cluster.refuse(["peer", "remove", p2.id], "1 would be left for 2 copies")
    p3 = cluster.start_peer("p3", "--auto-join")
    cluster.ctl("block", "load", "/bin/sh", "small")
    settle(cluster)
    def block_counts():
        status = json.loads(execute(cluster.args("status", "--json")).stdout)
        return {peer["id"]: peer["block_count"] for peer in status["peers"]}
    holders = [peer for peer, count in block_counts().items() if count]
    assert len(holders) >= 2
    step("a peer that holds blocks is drained, and empty afterwards")
    cluster.ctl("peer", "drain", holders[0])
    settle(cluster)
    wait_for("it is empty", lambda: block_counts()[holders[0]] == 0, timeout=30)
    assert execute(cluster.args("block", "dump", "small", "-")).stdout.startswith(read_file("/bin/sh"))
    cluster.ctl("peer", "add", holders[0])
    settle(cluster)
    p3.kill()
    wait_for("its death shows", lambda: execute(cluster.args("status")).returncode == 1)


def test_wipe(cluster):
    step("wipe")
    cluster.refuse(["wipe"], "--yes-i-am-sure")
    cluster.refuse(["wipe", "--yes-i-am-sure"], "is running")
    cluster.stop_peers()
    assert "wiped" in cluster.ctl("wipe", "--yes-i-am-sure")
    for args in (["volume", "list"], ["peer", "list"], ["ring", "get"], ["status"],
                 ["volume", "create-block", "x", "1MiB"], ["wipe", "--yes-i-am-sure"]):
        cluster.refuse(args, "holds no cluster; run 'agroctl init'")
    assert UUID.fullmatch(cluster.ctl("init").strip())


def test_damaged_stores(cluster):
    step("damaged and foreign meta.db")
    good = read_file(cluster.store)
    for name, contents, texts in (("garbage", random.Random(4).randbytes(8192), []),
                                  ("text", b"hello\n" * 100, []),
                                  ("cut", good[:len(good) // 2], []),
                                  ("empty", b"", ["is empty"]),
                                  ("torn", good[:4096] + bytes(len(good) - 4096), [])):
        path = cluster.path(name + ".db")
        with open(path, "wb") as file:
            file.write(contents)
        refuse(program("agroctl", "-C", "sqlite:" + path, "volume", "list"), path, *texts)
        if contents:
            refuse(program("agroctl", "-C", "sqlite:" + path, "init"), path)
            assert read_file(path) == contents, f"{name} was changed"
    foreign = cluster.path("foreign.db")
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE notes(text)")
    database.close()
    refuse(program("agroctl", "-C", "sqlite:" + foreign, "init"), foreign, "another application")


def main():
    directory = scratch_dir()
    cluster = Cluster(directory)
    test_help_everywhere()
    test_usage_errors(directory)
    test_completion()
    test_documentation()
    test_init(cluster)
    test_profiles(cluster)
    test_empty_listings(cluster)
    test_volumes(cluster)
    test_peers(cluster)
    test_ring_and_status(cluster)
    test_ring_changes(cluster)
    test_load_and_dump(cluster)
    test_load_errors(cluster)
    test_interrupt(cluster)
    test_nbdserve(cluster)
    test_agro_refusals(cluster, Cluster(cluster.path("other")))
    test_peer_loss(cluster)
    test_wipe(cluster)
    test_damaged_stores(cluster)
    test_standalone(directory)
    step("done")


main()
