#!/usr/bin/python3
# Scenario 7: every process (peers, the client, etcd servers) is killed with -9 at random moments,
# again and again, and started again a moment later. Whenever the volume can be opened it is compared
# with what may legally be there; nothing that was flushed is ever missing.
#
# Method: the test's own thread kills and starts; another one opens, checks, writes, and reads on.
# Usage: chaos_test.py BIN_DIR [SEED] [--full]     (--full: 5 minutes, else 90 s; AGRO_CHAOS_SECONDS is above both)
import os
import random
import threading
import time

from cluster_lib import Cluster, arguments, nbd, step
from agro_oracle import Oracle
from agro_testlib import MIB

VOLUME, SIZE = "demo", 64 * MIB


class Survivor:
    """Opens the volume whenever it can, checks it, and works until the client dies under it."""

    def __init__(self, seed, cluster):
        self.cluster = cluster
        self.oracle = Oracle(seed, SIZE, depth=8)
        self.failure = None
        self.ending = False
        self.client_deaths = 0  # told by the other thread just before a kill
        self.checks = 0
        self.idle = 0.0  # seconds without an open volume
        self.open_since = None
        self.thread = threading.Thread(target=self._work, daemon=True)

    def _work(self):
        try:
            while not self.ending:
                self._life()
        except BaseException as error:  # noqa: B036: shown in the test's own thread
            self.failure = error

    def _life(self):
        self.open_since = None
        deaths = self.client_deaths
        begun = time.monotonic()
        handles = []
        while not handles and not self.ending:
            try:
                client = self.cluster.clients[1]
                handles = [client.connect(VOLUME), client.connect(VOLUME)]
            except nbd.Error:
                handles = []
                time.sleep(0.02)
        self.idle += time.monotonic() - begun
        if not handles:
            return
        try:
            self.oracle.check(handles[0])
        except nbd.Error as error:
            assert self.client_deaths > deaths, f"reading failed though the client lives: {error}"
            return
        self.checks += 1
        self.open_since = time.monotonic()
        self.oracle.bulk = self.checks % 3 == 2
        self.oracle.run(handles, stop=lambda: self.ending, may_die=lambda: self.client_deaths > deaths)

    def check(self):
        if self.failure is not None:
            raise AssertionError(f"data or device: {self.failure}") from self.failure


class Chaos:
    """Kills, and starts again what is down; nothing may end by itself."""

    def __init__(self, seed, cluster, survivor):
        self.random = random.Random(seed)
        self.cluster, self.survivor = cluster, survivor
        self.down = {}  # (kind, index) -> when it is started again
        self.kills = {}
        self.victims = [("peer", index) for index in range(len(cluster.peers))] + [("client", 1)] * 2
        self.victims += [("etcd", index) for index in range(len(cluster.etcd.servers))]

    def process(self, kind, index):
        table = {"peer": self.cluster.peers, "client": self.cluster.clients}
        return (self.cluster.etcd.servers if kind == "etcd" else table[kind])[index]

    def kill_one(self):
        victim = self.random.choice(self.victims)
        if victim in self.down:
            return
        if victim[0] == "client":
            # Its lock outlives it by a lease, in which nobody can work: let it do something first.
            open_since = self.survivor.open_since
            if open_since is None or time.monotonic() - open_since < self.random.uniform(1, 20):
                return
            self.survivor.client_deaths += 1
        self.process(*victim).kill()
        self.kills[victim[0]] = self.kills.get(victim[0], 0) + 1
        self.down[victim] = time.monotonic() + self.random.choice((0.0, 0.2, 1.0, 3.0, 6.0))

    def start_due(self, everything=False):
        for victim in [one for one, when in self.down.items() if everything or time.monotonic() >= when]:
            kind, index = victim
            del self.down[victim]
            if kind == "peer":
                self.cluster.start_peer(index, wait=False)
            elif kind == "client":
                self.cluster.launch_client(index)
            else:
                self.cluster.etcd.start_server(index)

    def look(self):
        """What ended without having been killed must have been unable to start (no etcd just then)."""
        for victim in set(self.victims) - set(self.down):
            process = self.process(*victim)
            if process.alive():
                continue
            could_not_start = victim[0] != "etcd" and not process.served()
            assert could_not_start, f"{process.args} ended by itself: {process.log()[-3000:]}"
            if victim[0] == "client":
                self.survivor.client_deaths += 1
            self.down[victim] = time.monotonic() + 0.5

    def run(self, seconds):
        end = time.monotonic() + seconds
        next_kill = time.monotonic() + 1
        while time.monotonic() < end:
            self.survivor.check()
            self.look()
            self.start_due()
            if time.monotonic() >= next_kill:
                self.kill_one()
                next_kill = time.monotonic() + self.random.choice((0.05, 0.5, 1.0, 2.0, 4.0, 8.0))
            time.sleep(0.02)

    def settle(self):
        """Everything up again for good."""
        end = time.monotonic() + 60
        while True:
            self.start_due(everything=True)
            self.look()
            # One that started while there was no etcd ends some seconds later.
            up = [self.process(*victim) for victim in self.victims if victim[0] != "etcd"]
            if not self.down and all(process.alive() and process.served() for process in up):
                return
            assert time.monotonic() < end
            time.sleep(0.1)


def main():
    bin_dir, seed, full = arguments()
    cluster = Cluster(bin_dir, etcd_count=3, peer_count=4, replication=2).start_peers()
    cluster.create_volume(VOLUME, "256MiB")
    cluster.start_client()
    survivor = Survivor(seed, cluster)
    chaos = Chaos(seed, cluster, survivor)
    seconds = int(os.environ.get("AGRO_CHAOS_SECONDS", 300 if full else 90))
    step(f"everything is killed at random for {seconds} s")
    survivor.thread.start()
    chaos.run(seconds)
    chaos.settle()
    step("the dust settles")
    time.sleep(1)
    survivor.check()
    # After the last start the volume opens and everything is healthy again.
    print(f"healthy after {cluster.wait_healthy(120):.1f} s", flush=True)
    checks = survivor.checks
    survivor.client_deaths += 1
    cluster.clients[1].kill()
    cluster.start_client()
    end = time.monotonic() + 60
    while survivor.checks == checks:
        survivor.check()
        assert time.monotonic() < end, "the volume does not open any more"
        time.sleep(0.1)
    time.sleep(2)
    survivor.ending = True
    survivor.thread.join(60)
    assert not survivor.thread.is_alive(), "requests hang at the end"
    survivor.check()
    print(f"RESULT scenario 7, {seconds} s of kill -9: {chaos.kills}, the volume was opened and compared "
          f"{survivor.checks} times, {survivor.oracle.summary()}, {survivor.idle:.0f} s without an open volume; "
          "nothing lost", flush=True)
    cluster.stop()


if __name__ == "__main__":
    main()
