# What bench/flat_cost.py and bench/seven_rows.py measure on: clusters of real processes, what they wrote to disk, and fio over NBD.
#
# Counters: `written` is agro_store_written_bytes_total, what stores gave to their files; `io` is write_bytes of
# /proc/PID/io, what the kernel counted for the same processes, which has the metadata store and logs in it too.
# A page that is written twice before the kernel writes it back counts once in `io`.
import dataclasses
import json
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "integration"))
import agro_testlib as lib  # noqa: E402
from agro_cluster import Cluster  # noqa: E402
from agro_testlib import MIB, Standalone, parse_metrics, wait_for  # noqa: E402

COPIES = 2
COUNTERS = {
    "written": "agro_store_written_bytes_total",
    "blocks": "agro_storage_written_blocks",
    "syncs": "agro_store_syncs_total",
    "user": "agro_volume_written_bytes_total",
    "cleaned": "agro_volume_cleaned_bytes_total",
    "checkpoint": "agro_volume_checkpoint_bytes_total",
    "moved": "agro_rebalance_moved_bytes_total",
    "scrubbed": "agro_scrub_bytes_total",
}


@dataclasses.dataclass
class Counters:
    """What the processes counted until now, or between two moments."""
    values: dict

    def __sub__(self, other):
        return Counters({key: value - other.values[key] for key, value in self.values.items()})

    def __getattr__(self, name):
        if name.startswith("_") or name not in self.values:
            raise AttributeError(name)
        return self.values[name]


class Rig:
    """A cluster, whichever way its processes are cut, and its counters."""

    def __init__(self, bin_dir, directory):
        self.bin_dir, self.dir = bin_dir, directory

    def samples(self):
        """(name without labels, value) of all processes."""
        for text in self.metrics_texts():
            for key, value in parse_metrics(text).items():
                yield key.split("{")[0], value

    def metric(self, name):
        return sum(value for key, value in self.samples() if key == name)

    def counters(self):
        sums = {}
        for key, value in self.samples():
            sums[key] = sums.get(key, 0) + value
        values = {short: sums.get(name, 0) for short, name in COUNTERS.items()}
        values["io"] = sum(written_by(pid) for pid in self.pids())
        return Counters(values)

    def wait_detached(self):
        """The volume's last client left: its checkpoint is written."""
        wait_for("the volumes are detached", lambda: self.metric("agro_volumes_attached") == 0, 60)

    def wait_quiet(self, volume, seconds=1.5, timeout=120):
        """Cleaner and checkpoints came to rest, with the volume open but unused."""
        import time
        handle = self.connect(volume)
        deadline = time.monotonic() + timeout
        last, since = None, time.monotonic()
        while time.monotonic() - since < seconds + 5:  # an idle checkpoint comes after five seconds
            assert time.monotonic() < deadline, f"no rest within {timeout} s"
            now = self.counters()
            state = (now.cleaned, now.checkpoint, now.blocks)
            if state != last:
                last, since = state, time.monotonic()
            time.sleep(0.2)
        handle.shutdown()


class OneProcess(Rig):
    """`agro standalone`: three stores, R=2, one process."""

    def __init__(self, bin_dir, directory, volumes, peer_bytes, read_cache="4MiB"):
        super().__init__(bin_dir, directory)
        options = [word for name, size in volumes.items() for word in ("--create-volume", f"{name}={size}")]
        self.server = Standalone(bin_dir, directory, "--size", f"{peer_bytes // MIB}MiB", "--read-cache", read_cache,
                                 "--scrub-interval", "never", *options)

    def metrics_texts(self):
        return [self.server.metrics_text()]

    def pids(self):
        return [self.server.pid]

    def uri(self, volume):
        return self.server.uri(volume)

    def connect(self, volume):
        return self.server.connect(volume)

    def agroctl(self, *args):
        return lib.run([os.path.join(self.bin_dir, "agroctl"), "-C", f"sqlite:{self.dir}/meta.db", *args])

    def stop(self):
        self.server.stop()
        lib.run(["rm", "-rf", self.dir])


class ManyProcesses(Rig):
    """Three `agro`, R=2, and one `agroblock nbdserve`."""

    def __init__(self, bin_dir, directory, volumes, peer_bytes, wait=True, read_cache="4MiB"):
        super().__init__(bin_dir, directory)
        self.cluster = Cluster(bin_dir, directory, peer_size=f"{peer_bytes // MIB}MiB",
                               peer_options=("--scrub-interval", "never"), read_cache=read_cache)
        for name, size in volumes.items():
            self.cluster.create_volume(name, size)
        self.cluster.start()
        for name in list(volumes) if wait else list(volumes)[:1]:
            wait_for("the volume can be opened", lambda name=name: self._try(name), 20)

    def _try(self, name):
        try:
            self.connect(name).shutdown()
            return True
        except Exception:  # libnbd's own type; the deadline of wait_for reports it
            return False

    def add_peer(self):
        self.cluster.peers.append(None)
        return self.cluster.start_peer(len(self.cluster.peers) - 1)

    def metrics_texts(self):
        peers = [lib.http_get(peer.metrics_socket) for peer in self.cluster.peers]
        return [*peers, lib.http_get(self.cluster.metrics_socket)]

    def pids(self):
        return [process.pid for process in self.cluster.processes()]

    def uri(self, volume):
        return self.cluster.uri(volume)

    def connect(self, volume):
        return self.cluster.connect(volume)

    def agroctl(self, *args):
        return self.cluster.agroctl(*args)

    def stop(self):
        self.cluster.stop()
        lib.run(["rm", "-rf", self.dir])


def written_by(pid):
    with open(f"/proc/{pid}/io") as file:
        fields = dict(line.split(": ") for line in file.read().splitlines())
    return int(fields["write_bytes"])


def fio(uri, rw, size, bs="4k", depth=32, **options):
    """Runs one job to its end and returns fio's record of it. An option of None is a flag."""
    args = ["fio", "--output-format=json", "--name=job", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}", f"--bs={bs}",
            f"--iodepth={depth}", f"--size={size}"]
    args += [f"--{key}" if value is None else f"--{key}={value}" for key, value in options.items()]
    text = lib.run(args, timeout=900).stdout
    job = json.loads(text[text.index("{"):])["jobs"][0]
    assert job["error"] == 0, job
    return job


def p99_ms(job, direction):
    return job[direction]["clat_ns"]["percentile"]["99.000000"] / 1e6
