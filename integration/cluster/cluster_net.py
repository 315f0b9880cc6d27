# Where the processes of a cluster test live: on loopback addresses of the test's own, or each in a
# network namespace with a veth pair to a bridge, whose links can be cut.
#
# Invariants: nothing of the machine's own network is touched (the bridge is in a namespace too), and
# all namespaces go with the test; those that a killed test left are removed by the next one.
import os
import random
import socket
import subprocess

from agro_testlib import at_exit, run, skip

PREFIX = "agrotest"


class Place:
    """An address, and what to put before a command so that it runs there."""

    def __init__(self, ip, prefix=()):
        self.ip, self.prefix = ip, list(prefix)


class Loopback:
    """All on this machine, on 127.x.y.*; ports are ours alone because the addresses are."""

    def __init__(self):
        while True:
            self.net = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
            with socket.socket() as probe:
                try:
                    probe.bind((f"{self.net}.1", 2379))
                    break
                except OSError:
                    continue
        self.count = 0

    def place(self, _name):
        self.count += 1
        return Place(f"{self.net}.{self.count}")


class Namespaces:
    """One namespace a place. cut() is of one place from all others, cut_between() of two from each other."""

    def __init__(self):
        _remove_left_over()
        self.tag = f"{PREFIX}-{os.getpid()}"
        self.switch = f"{self.tag}-switch"
        self.count = 0
        self.links = {}  # name -> (namespace, the link's name at the switch, ip)
        at_exit(self.close)
        try:
            self._ip("netns", "add", self.switch)
        except AssertionError as error:
            skip(f"network namespaces cannot be made here: {error}")
        self._ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", self.switch, "link", "set", "bridge", "up")

    @staticmethod
    def _ip(*args):
        return run(["ip", *args])

    def place(self, name):
        self.count += 1
        namespace, link, ip = f"{self.tag}-{name}", f"v{self.count}", f"10.77.0.{self.count}"
        self._ip("netns", "add", namespace)
        self.links[name] = (namespace, link, ip)
        self._ip("-n", self.switch, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._ip("-n", self.switch, "link", "set", link, "master", "bridge", "up")
        self._ip("-n", namespace, "link", "set", "lo", "up")
        self._ip("-n", namespace, "addr", "add", f"{ip}/24", "dev", "eth0")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        return Place(ip, ["ip", "netns", "exec", namespace])

    def cut(self, name):
        """Nothing goes to `name` or comes from it, and nobody is told (its own link stays up)."""
        self._ip("-n", self.switch, "link", "set", self.links[name][1], "nomaster")

    def heal(self, name):
        self._ip("-n", self.switch, "link", "set", self.links[name][1], "master", "bridge")

    def cut_between(self, one, other):
        """What these two send each other is lost (to an address nobody has); both still reach everybody else."""
        for source, target in ((one, other), (other, one)):
            self._ip("-n", self.links[source][0], "neigh", "replace", self.links[target][2],
                     "lladdr", "02:00:00:00:00:01", "nud", "permanent", "dev", "eth0")

    def heal_between(self, one, other):
        for source, target in ((one, other), (other, one)):
            self._ip("-n", self.links[source][0], "neigh", "del", self.links[target][2], "dev", "eth0")

    def close(self):
        for namespace in [self.switch, *(link[0] for link in self.links.values())]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _remove_left_over():
    for line in run(["ip", "netns", "list"]).stdout.splitlines():
        name = line.split()[0]
        parts = name.split("-")
        if parts[0] == PREFIX and len(parts) > 2 and not os.path.exists(f"/proc/{parts[1]}"):
            run(["ip", "netns", "del", name], check=False)
