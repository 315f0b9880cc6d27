# A throw-away virtual machine with a Debian kernel, to test with the kernel's own clients.
#
# Invariants: nothing of the host is changed; QEMU ends with the test. The script's exit status is the guest's.
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import agro_testlib as lib

HERE = os.path.dirname(os.path.abspath(__file__))
HOST = "10.0.2.2"  # our 127.0.0.1, as the guest sees it


def prepare(folder, bin_dir):
    """Makes kernel, initrd and tools in `folder`, once."""
    lib.need_tools("qemu-system-x86_64", "busybox", "cpio", "depmod")
    done = subprocess.run([os.path.join(HERE, "prepare"), folder, os.path.abspath(bin_dir)])
    if done.returncode == 77:
        lib.skip("there is no kernel for the guest")
    assert done.returncode == 0, f"prepare ended with {done.returncode}"


class TapCluster:
    """etcd and three peers in a network namespace of their own, with a tap for a guest. Needs root."""

    HOST, GUEST, ETCD = "10.99.0.1", "10.99.0.2", "10.99.0.1:2379"

    def __init__(self, bin_dir):
        lib.need_tools("etcd")
        if os.geteuid() != 0:
            lib.skip("needs root, for a network namespace")
        if not os.path.exists("/dev/net/tun"):
            lib.skip("there are no taps here (/dev/net/tun)")
        directory, self.namespace = lib.scratch_dir(), f"agroguest{os.getpid()}"
        lib.run(["ip", "netns", "add", self.namespace])
        lib.at_exit(lambda: lib.run(["ip", "netns", "del", self.namespace], check=False))
        for command in (["link", "set", "lo", "up"], ["tuntap", "add", "dev", "tap0", "mode", "tap"],
                        ["addr", "add", f"{self.HOST}/24", "dev", "tap0"], ["link", "set", "tap0", "up"]):
            lib.run(["ip", "-n", self.namespace, *command])
        inside = ["ip", "netns", "exec", self.namespace]
        lib.Process([*inside, "etcd", "--data-dir", f"{directory}/etcd", "--listen-client-urls", f"http://{self.ETCD}",
                     "--advertise-client-urls", f"http://{self.ETCD}", "--listen-peer-urls", f"http://{self.HOST}:2380"],
                    f"{directory}/etcd.log")
        self._agroctl = [*inside, os.path.join(bin_dir, "agroctl"), "--etcd", self.ETCD]
        lib.wait_for("etcd answers", lambda: self._try("init", "--replication", "2").returncode == 0, 30, 0.5)
        for number in range(1, 4):
            lib.Process([*inside, os.path.join(bin_dir, "agro"), "--etcd", self.ETCD, "--data-dir", f"{directory}/peer{number}",
                         "--peer-address", f"adp://{self.HOST}:{7000 + number}", "--size", "2GiB", "--auto-join"],
                        f"{directory}/peer{number}.log")
        lib.wait_for("three peers", lambda: self._try("peer", "list").stdout.count("adp://") == 3, 30, 0.5)

    def _try(self, *args):
        return lib.run([*self._agroctl, *args], check=False)

    def agroctl(self, *args):
        return lib.run([*self._agroctl, *args])

    def boot(self, folder, script):
        return Guest(folder, script, {"GUEST_ADDRESS": f"{self.GUEST}/24", "ETCD": self.ETCD}, tap="tap0", namespace=self.namespace)


class Guest:
    """Boots at once and runs `script`. `tap`: an existing interface in place of the user network; raw Ethernet."""

    def __init__(self, folder, script, environment=(), tap=None, mtu=1500, cpus=2, namespace=None):
        self.work = tempfile.mkdtemp(prefix="agro-guest-")
        lib._cleanups.append(lambda: shutil.rmtree(self.work, ignore_errors=True))
        self.lines, self._more = [], threading.Condition()
        self._pack(folder, script, dict(environment, GUEST_MTU=str(mtu),
                                        **({} if tap else {"GUEST_ADDRESS": "10.0.2.15/24"})))
        network = (f"tap,id=net,ifname={tap},script=no,downscript=no" if tap else "user,id=net,restrict=no")
        command = ["ip", "netns", "exec", namespace] if namespace else []
        command += ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(cpus),
                    "-m", "768", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                    "-kernel", os.path.join(folder, "vmlinuz"), "-initrd", os.path.join(self.work, "initrd"),
                    "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable",
                    "-serial", "stdio",
                    "-drive", f"file={folder}/tools.img,format=raw,if=none,id=tools,readonly=on,file.locking=off",
                    "-device", "virtio-blk-pci,drive=tools",
                    "-netdev", network, "-device", f"virtio-net-pci,netdev=net,romfile=,host_mtu={mtu}"]
        self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      preexec_fn=lambda: lib._libc.prctl(lib.PR_SET_PDEATHSIG, lib.signal.SIGKILL))
        threading.Thread(target=self._read, daemon=True).start()

    def _pack(self, folder, script, environment):
        root = os.path.join(self.work, "root", "guest")
        os.makedirs(root)
        shutil.copy(script, os.path.join(root, "script"))
        shutil.copy(os.path.join(HERE, "lib.sh"), root)
        with open(os.path.join(root, "environment"), "w") as out:
            for name, value in environment.items():
                out.write(f'export {name}="{value}"\n')
        packed = subprocess.run("find . | cpio -o -H newc --quiet", shell=True, check=True, capture_output=True,
                                cwd=os.path.join(self.work, "root")).stdout
        with open(os.path.join(folder, "initrd.gz"), "rb") as base, open(os.path.join(self.work, "initrd"), "wb") as out:
            data = base.read()
            out.write(data + bytes(-len(data) % 4) + packed)

    def _read(self):
        for raw in self.popen.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            print("  guest| " + line, flush=True)
            with self._more:
                self.lines.append(line)
                self._more.notify_all()
        with self._more:
            self.lines.append("GUEST_GONE")
            self._more.notify_all()

    def wait_for_line(self, pattern, timeout):
        """The first line that matches; fails when the guest ends before."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._more:
            while True:
                for line in self.lines[seen:]:
                    if re.search(pattern, line):
                        return line
                    if line.startswith(("GUEST_GONE", "GUEST_EXIT=")):
                        raise AssertionError(f"the guest ended ({line}) before it said '{pattern}'")
                seen = len(self.lines)
                if time.monotonic() > deadline:
                    raise AssertionError(f"the guest did not say '{pattern}' within {timeout} s")
                self._more.wait(1.0)

    def wait(self, timeout):
        """The exit status of its script."""
        line = self.wait_for_exit(timeout)
        return int(line.split("=")[1])

    def wait_for_exit(self, timeout):
        deadline = time.monotonic() + timeout
        with self._more:
            while True:
                for line in self.lines:
                    if line.startswith("GUEST_EXIT="):
                        return line
                if "GUEST_GONE" in self.lines:
                    raise AssertionError("the guest died (a panic?)")
                if time.monotonic() > deadline:
                    raise AssertionError(f"the guest did not end within {timeout} s")
                self._more.wait(1.0)
