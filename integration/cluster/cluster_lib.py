# A cluster of real processes for the scenarios of docs/internals/testing.md: etcd (one or three),
# `agro` peers that find each other through it, and `agroblock nbdserve` clients, each to be killed,
# stopped and started as a scenario likes, on loopback or in network namespaces.
#
# Invariants: those of agro_testlib; a process is always named (peer 1 is peers[0]).
import json
import os
import random
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agro_testlib import (GIB, MIB, Process, connect, http_get, need_tools, parse_metrics, run,  # noqa: E402,F401
                          scratch_dir, skip, step, wait_for)

try:
    import nbd
except ImportError:
    skip("python3-libnbd is not installed for /usr/bin/python3")
from cluster_net import Loopback, Namespaces  # noqa: E402,F401

LEASE = 13.0  # seconds: of volumes (src/node/volume_manager.hpp)


class Member(Process):
    """A process at a place, with metrics on a Unix socket."""

    def __init__(self, name, args, cluster, place, env=None):
        self.name, self.place = name, place
        self.metrics_socket = f"{cluster.dir}/{name}.metrics"
        log_path = f"{cluster.dir}/{name}.log"
        self.log_start = os.path.getsize(log_path) if os.path.exists(log_path) else 0
        super().__init__([*place.prefix, *args, "--metrics", f"unix:{self.metrics_socket}"], log_path, env=env)

    def ready(self):
        assert self.alive(), f"{self.args} ended: {self.log()[-3000:]}"
        try:
            return "agro_" in http_get(self.metrics_socket)
        except OSError:
            return False

    def served(self):
        """It was up at some time: it said so."""
        with open(self.log_path, "rb") as log:
            log.seek(self.log_start)
            return any(line.startswith((b"agro 0", b"agro 1", b"agroblock ")) for line in log)

    def metric(self, name):
        """The sum over all labels; 0 when there is none yet."""
        metrics = parse_metrics(http_get(self.metrics_socket))
        return sum(value for key, value in metrics.items() if key.split("{")[0] == name)

    def pause(self):
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self):
        self.popen.send_signal(signal.SIGCONT)


class Etcd:
    """`count` etcd servers that make one cluster; each keeps its data when it is killed."""

    def __init__(self, directory, net, count=1):
        need_tools("etcd", "etcdctl")
        self.dir = directory
        self.places = [net.place(f"etcd{index + 1}") for index in range(count)]
        self.servers = [None] * count
        self.endpoints = ",".join(f"{place.ip}:2379" for place in self.places)

    def start_server(self, index):
        place, name = self.places[index], f"e{index + 1}"
        # One alone waits for its own election before it serves: shorter, so that it is away for as long as it is dead.
        alone = ["--heartbeat-interval", "50", "--election-timeout", "300"] if len(self.places) == 1 else []
        members = ",".join(f"e{number + 1}=http://{one.ip}:2380" for number, one in enumerate(self.places))
        self.servers[index] = Process(
            [*place.prefix, "etcd", "--name", name, "--data-dir", f"{self.dir}/{name}",
             "--listen-client-urls", f"http://{place.ip}:2379", "--advertise-client-urls", f"http://{place.ip}:2379",
             "--listen-peer-urls", f"http://{place.ip}:2380", "--initial-advertise-peer-urls", f"http://{place.ip}:2380",
             "--initial-cluster", members, "--initial-cluster-token", self.dir, "--log-level", "warn",
             *alone],
            f"{self.dir}/{name}.log")

    def start(self):
        for index in range(len(self.servers)):
            self.start_server(index)
        wait_for("etcd is ready", self.healthy, timeout=30, interval=0.2)
        return self

    def ctl(self, place, *args, check=True):
        return run([*place.prefix, "etcdctl", "--endpoints", f"http://{place.ip}:2379", "--command-timeout", "2s", *args],
                   check=check, env={**os.environ, "ETCDCTL_API": "3"})

    def healthy(self):
        return all(self.ctl(place, "endpoint", "health", check=False).returncode == 0
                   for place, server in zip(self.places, self.servers) if server is not None)

    def leader(self):
        """The index of the server that leads."""
        for index, place in enumerate(self.places):
            if self.servers[index] is None:
                continue
            status = json.loads(self.ctl(place, "endpoint", "status", "-w", "json").stdout)[0]["Status"]
            if status["header"]["member_id"] == status["leader"]:
                return index
        raise AssertionError("no etcd server leads")

    def kill(self, index=0):
        self.servers[index].kill()
        self.servers[index] = None


class Peer(Member):
    def __init__(self, cluster, index):
        self.data_dir = f"{cluster.dir}/peer{index + 1}"
        place = cluster.peer_places[index]
        args = [cluster.program("agro"), *cluster.metadata_options, "--data-dir", self.data_dir,
                "--peer-address", f"adp://{place.ip}:7000", "--size", cluster.peer_size,
                "--host-label", f"host{index + 1}", *cluster.peer_options]
        super().__init__(f"peer{index + 1}", args, cluster, place)


class Client(Member):
    """`agroblock nbdserve` on a Unix socket, which namespaces do not separate from the test."""

    def __init__(self, cluster, number):
        name = f"client{number}"
        self.nbd_socket = f"{cluster.dir}/{name}.nbd"
        args = [cluster.program("agroblock"), *cluster.metadata_options, "nbdserve", "--read-cache", "4MiB",
                "-l", f"unix:{self.nbd_socket}"]
        super().__init__(name, args, cluster, cluster.client_place(number))

    def connect(self, volume):
        return connect(self.nbd_socket, volume)

    def attach(self, volume, timeout=30.0, count=1):
        """`count` connections; the first is tried until the volume opens. Returns them and the seconds taken."""
        begun = time.monotonic()
        handles = []
        while not handles:
            try:
                handles.append(self.connect(volume))
            except nbd.Error as error:
                late = time.monotonic() > begun + timeout
                assert self.alive() and not late, f"{volume} does not open: {error}\n{self.log()[-3000:]}"
                time.sleep(0.005)
        took = time.monotonic() - begun
        return handles + [self.connect(volume) for _ in range(count - 1)], took


class Cluster:
    """Metadata, peers and clients in `directory`; start() starts what is asked for."""

    def __init__(self, bin_dir, net=None, etcd_count=1, peer_count=3, replication=3, peer_size="8GiB",
                 init_options=(), peer_options=("--auto-join",)):
        self.bin_dir, self.peer_size, self.peer_options = os.path.abspath(bin_dir), peer_size, list(peer_options)
        self.dir = scratch_dir()
        self.net = net or Loopback()
        self.admin_place = self.net.place("admin")
        self.peer_places = []
        self.client_places = {}
        self.peers = []
        self.clients = {}
        self.etcd = Etcd(self.dir, self.net, etcd_count).start()
        self.metadata_options = ["--etcd", self.etcd.endpoints]
        self.agroctl("init", "--replication", replication, *init_options)
        self.grow(peer_count)

    def program(self, name):
        return os.path.join(self.bin_dir, name)

    def agroctl(self, *args, check=True, timeout=60):
        return run([*self.admin_place.prefix, self.program("agroctl"), *self.metadata_options, *args],
                   check=check, timeout=timeout)

    def json(self, *args, check=True):
        return json.loads(self.agroctl(*args, "--json", check=check).stdout)

    def status(self):
        return self.json("status", check=False)

    def create_volume(self, name, size):
        self.agroctl("volume", "create-block", name, size)

    # --- peers ---

    def grow(self, count, start=False):
        """Room for `count` more peers."""
        first = len(self.peers)
        for index in range(first, first + count):
            self.peer_places.append(self.net.place(f"peer{index + 1}"))
            self.peers.append(None)
            if start:
                self.start_peer(index)

    def start_peer(self, index, wait=True):
        self.peers[index] = Peer(self, index)
        if wait:
            wait_for(f"peer {index + 1} is ready", self.peers[index].ready, timeout=30)
        return self.peers[index]

    def start_peers(self):
        """Together, as after a power cut."""
        for index in range(len(self.peers)):
            self.start_peer(index, wait=False)
        for index, peer in enumerate(self.peers):
            wait_for(f"peer {index + 1} is ready", peer.ready, timeout=30)
        return self

    def kill_peer(self, index):
        self.peers[index].kill()
        self.peers[index] = None

    def peer_view(self, index):
        """The line of `status` about a peer, by its address."""
        address = f"adp://{self.peer_places[index].ip}:7000"
        return next((one for one in self.status()["peers"] if address in one["addresses"]), None)

    # --- clients ---

    def client_place(self, number):
        if number not in self.client_places:
            self.client_places[number] = self.net.place(f"client{number}")
        return self.client_places[number]

    def launch_client(self, number=1):
        self.clients[number] = Client(self, number)
        return self.clients[number]

    def start_client(self, number=1):
        client = self.launch_client(number)
        wait_for(f"client {number} is ready", client.ready, timeout=30, interval=0.005)
        return client

    # --- the whole ---

    def processes(self):
        servers = [*self.etcd.servers, *self.peers, *self.clients.values()]
        return [process for process in servers if process is not None]

    def check_alive(self):
        for process in self.processes():
            assert process.alive(), f"{process.args} ended by itself: {process.log()[-3000:]}"

    def wait_healthy(self, timeout=120.0, calm=4.0, interval=0.5):
        """Until `agroctl status` has said for `calm` seconds that all is well: peers look what their blocks lack
        some seconds after others came and went. Returns the seconds until it first said so."""
        begun, well_since = time.monotonic(), None
        while True:
            done = self.agroctl("status", check=False)
            now = time.monotonic()
            if done.returncode != 0:
                well_since = None
            elif well_since is None:
                well_since = now
            if well_since is not None and now - well_since >= calm:
                return well_since - begun
            assert now - begun < timeout, f"not healthy after {timeout} s:\n{done.stdout}\n{done.stderr}"
            time.sleep(interval)

    def stop(self):
        """A clean stop of clients and peers: fails when an exit status is not 0."""
        for process in [*self.clients.values(), *self.peers]:
            if process is not None:
                status = process.terminate(30)
                assert status == 0, f"{process.args} ended with {status}: {process.log()[-3000:]}"


def arguments(full=False):
    """BIN_DIR [SEED] [--full]: the bin dir, the seed in use (printed), and whether it is the full size."""
    words = [word for word in sys.argv[1:] if word != "--full"]
    seed = int(words[1] if len(words) > 1 else os.environ.get("AGRO_SEED", time.time_ns() % 10**9))
    print(f"seed {seed}; again with: AGRO_SEED={seed}", flush=True)
    random.seed(seed)
    return words[0], seed, full or "--full" in sys.argv
