"""What a standalone tells over HTTP, after some I/O: every metric has HELP and TYPE and is valid text
for Prometheus, every query of contrib/grafana/agro.json names series that are there, readiness and the
API say what is true. Usage: http_test.py BIN_DIR"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import agro_testlib as lib
from agro_testlib import MIB, Standalone, http_get, run, step, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf'([a-z_][a-z0-9_]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? ([-+0-9.e]+|\+Inf|NaN)$')


def body_of(answer):
    return answer.partition("\r\n\r\n")[2]


def check_exposition(text):
    """Returns {family: (kind, {series names})}; fails on the first line that is not right."""
    families, current, seen = {}, None, set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            current = line.split(" ")[2]
            assert len(line.split(" ", 3)[3]) > 3, f"no help: {line}"
            assert current not in families, f"twice: {current}"
            families[current] = [None, set()]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == current and kind in ("counter", "gauge", "histogram"), line
            families[name][0] = kind
        else:
            match = SAMPLE.match(line)
            assert match, f"not a sample: {line!r}"
            name = match.group(1)
            suffix = name[len(current):] if name.startswith(current) else None
            wanted = ("_bucket", "_sum", "_count") if families[current][0] == "histogram" else ("",)
            assert suffix in wanted, f"{line!r} is no series of {current}"
            key = line.rpartition(" ")[0]
            assert key not in seen, f"twice: {key}"
            seen.add(key)
            families[current][1].add(name)
    assert all(kind and names for kind, names in families.values()), families
    return families


def check_dashboard(families):
    series = {name for _, names in families.values() for name in names}
    dashboard = json.loads((ROOT / "contrib/grafana/agro.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) >= 20, len(queries)
    for query in queries:
        names = re.findall(r"\bagro_[a-z0-9_]+", query)
        assert names, f"no metric in {query}"
        for name in names:
            assert name in series, f"{name} of {query!r} does not exist"
    print(f"{len(queries)} queries, {len(series)} series")


def do_some_io(server):
    disk = server.connect("v")
    for number in range(64):
        disk.pwrite(os.urandom(4096), number * MIB // 2)
    disk.flush()
    for number in range(64):
        disk.pread(4096, number * MIB // 2)
    disk.trim(MIB, 0)
    disk.flush()
    return disk


def counts(server, histogram):
    return {key.partition('op="')[2].partition('"')[0]: value for key, value in server.metrics().items()
            if key.startswith(histogram + "_count")}


def api(server, topic):
    answer = http_get(os.path.join(server.data_dir, "metrics.sock"), "/api/v1/" + topic)
    assert answer.startswith("HTTP/1.1 200 "), answer[:300]
    return json.loads(body_of(answer))


def check_api(server, port):
    peers = api(server, "peers")
    assert len(peers) == 3 and all(peer["state"] == "well" for peer in peers), peers
    ring = api(server, "ring")
    assert len(ring["members"]) == 3 and ring["replication"] == 2, ring
    volumes = api(server, "volumes")
    assert volumes["volumes"][0]["name"] == "v" and volumes["volumes"][0]["open_by"], volumes
    assert volumes["attached_here"][0]["mapped_bytes"] > 0, volumes
    work = api(server, "work")
    assert len(work["peers"]) == 3 and work["removals"] == [], work
    status = api(server, "status")
    assert status["healthy"] is True and len(status["peers"]) == 3, status
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        ready = json.load(answer)
    assert ready["ready"] and len(ready["checks"]) >= 8, ready
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok\n"


def not_ready(bin_dir, scratch):
    step("a peer outside the ring is not ready, and says why")
    uri = f"sqlite:{scratch}/lone/meta.db"
    run([f"{bin_dir}/agroctl", "-C", uri, "init"])
    peer = lib.Process([f"{bin_dir}/agro", "-C", uri, "--data-dir", f"{scratch}/lone/p", "--size", "1GiB",
                        "--peer-address", f"adp+unix:{scratch}/lone/adp.sock",
                        "--http", f"unix:{scratch}/lone/http.sock"], f"{scratch}/lone.log")
    answer = wait_for("the peer answers", lambda: os.path.exists(f"{scratch}/lone/http.sock")
                      and http_get(f"{scratch}/lone/http.sock", "/readyz"))
    assert answer.startswith("HTTP/1.1 503 "), answer
    problems = [check.get("problem") for check in json.loads(body_of(answer))["checks"]]
    assert any(problem and "agroctl peer add" in problem for problem in problems), problems
    run([f"{bin_dir}/agroctl", "-C", uri, "peer", "add", "--all-peers"])
    wait_for("the peer is ready", lambda: http_get(f"{scratch}/lone/http.sock", "/readyz")
             .startswith("HTTP/1.1 200 "))
    check_exposition(body_of(http_get(f"{scratch}/lone/http.sock")))
    assert peer.terminate() == 0, peer.log()[-2000:]


def main():
    bin_dir, scratch = sys.argv[1], lib.scratch_dir()
    with lib.socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Standalone(bin_dir, f"{scratch}/d", "--create-volume", "v=64MiB", "--http", str(port))
    step("some I/O, then metrics")
    disk = do_some_io(server)
    text = body_of(server.metrics_text())
    families = check_exposition(text)
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        assert done.returncode in (0, 3), done.stderr  # 3: lint, which the original's names do not pass
    check_dashboard(families)
    volume = counts(server, "agro_volume_operation_seconds")
    # What is answered at once is timed one time in eight, for eight.
    assert 40 <= volume["write"] <= 96 and 40 <= volume["read"] <= 96, volume
    assert volume["flush"] == 2 and volume["trim"] == 1, volume
    assert counts(server, "agro_store_operation_seconds")["put"] > 0
    assert counts(server, "agro_peer_operation_seconds")["write"] > 0
    assert counts(server, "agro_mds_operation_seconds")["transact"] > 0
    assert server.metric("agro_storage_written_blocks") > 0
    step("readiness and the API")
    check_api(server, port)
    disk.shutdown()
    wait_for("a detached volume has no series left",
             lambda: 'agro_volume_blocks{volume="v"}' not in server.metrics_text())
    server.stop()
    not_ready(bin_dir, scratch)
    step("done")


main()
