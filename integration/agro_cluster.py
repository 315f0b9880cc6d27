# A cluster of processes on this machine: metadata in SQLite (or where it is told), `agro` peers on Unix sockets, and one
# `agroblock nbdserve`, each to be killed, stopped and started as a test likes.
import os
import signal

from agro_testlib import Process, connect, http_get, parse_metrics, run, wait_for


class Peer(Process):
    """One `agro`, ready (registered and in the ring) when the constructor returns."""

    def __init__(self, cluster, number):
        self.data_dir = os.path.join(cluster.dir, f"peer-{number}")
        self.metrics_socket = os.path.join(cluster.dir, f"peer-{number}.metrics")
        super().__init__(
            [os.path.join(cluster.bin_dir, "agro"), "--metadata", cluster.metadata, "--data-dir", self.data_dir,
             "--peer-address", f"adp+unix:{cluster.dir}/peer-{number}.sock", "--size", cluster.peer_size,
             "--metrics", f"unix:{self.metrics_socket}", "--auto-join", *cluster.peer_options], f"{self.data_dir}.log")

    def ready(self):
        assert self.alive(), f"{self.args} ended: {self.log()[-2000:]}"
        try:
            return "agro_store_blocks" in http_get(self.metrics_socket)
        except OSError:
            return False

    def metric(self, name):
        metrics = parse_metrics(http_get(self.metrics_socket))
        return sum(value for key, value in metrics.items() if key.split("{")[0] == name)


class Cluster:
    """`peer_count` peers with two copies of each block; start() starts everything."""

    def __init__(self, bin_dir, directory, peer_count=3, peer_size="4GiB", block_size=None,
                 peer_options=(), client_options=(), metadata=None, read_cache="4MiB"):
        self.bin_dir, self.dir, self.peer_size = bin_dir, directory, peer_size
        self.metadata = metadata or f"sqlite:{directory}/meta.db"
        self.nbd_socket = f"{directory}/nbd.sock"
        self.metrics_socket = f"{directory}/client.metrics"
        self.peer_options, self.client_options = peer_options, client_options
        self.read_cache = read_cache
        self.peers = [None] * peer_count
        self.client = None
        os.makedirs(directory)
        more = ["--block-size", block_size] if block_size else []
        self.agroctl("init", "--replication", "2", *more)

    def agroctl(self, *args):
        return run([os.path.join(self.bin_dir, "agroctl"), "-C", self.metadata, *args])

    def create_volume(self, name, size):
        self.agroctl("volume", "create-block", name, size)

    def start_peer(self, index, wait=True):
        self.peers[index] = Peer(self, index + 1)
        if wait:
            wait_for(f"peer {index + 1} is ready", self.peers[index].ready, timeout=20)
        return self.peers[index]

    def kill_peer(self, index):
        """kill -9 of one; it is not missed until it is started again."""
        self.peers[index].kill()
        self.peers[index] = None

    def start_client(self):
        self.client = Process(
            [os.path.join(self.bin_dir, "agroblock"), "--metadata", self.metadata, "nbdserve", "--read-cache", self.read_cache,
             "-l", f"unix:{self.nbd_socket}", "--metrics", f"unix:{self.metrics_socket}", *self.client_options], f"{self.dir}/client.log")

    def start(self):
        """Everything at once, as after a power cut."""
        for index in range(len(self.peers)):
            self.start_peer(index, wait=False)
        for peer in self.peers:
            wait_for("a peer is ready", peer.ready, timeout=20, interval=0.005)
        self.start_client()
        return self

    def uri(self, volume):
        return f"nbd+unix:///{volume}?socket={self.nbd_socket}"

    def connect(self, volume):
        return connect(self.nbd_socket, volume)

    def processes(self):
        return [process for process in [self.client, *self.peers] if process is not None]

    def alive(self):
        return all(process.alive() for process in self.processes())

    def log(self):
        return "\n".join(process.log()[-2000:] for process in self.processes())

    def kill(self):
        """kill -9 of all, the signals as close together as can be."""
        for process in self.processes():
            process.popen.send_signal(signal.SIGKILL)
        for process in self.processes():
            process.kill()

    def stop(self):
        """A clean stop: fails when an exit status is not 0."""
        for process in self.processes():
            status = process.terminate()
            assert status == 0, f"{process.args} ended with {status}: {process.log()[-2000:]}"
