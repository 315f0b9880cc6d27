#!/usr/bin/python3
# The CSI driver on a real kernel: agrocsi in a guest attaches volumes through the kernel's nbd, makes file systems, mounts, grows and
# binds them, with etcd and three peers outside of it. Killed and started again, and an agroblock of it killed, no file is lost, and
# nothing stays attached in the end. The suite of its calls and their errors is ../csi_test.py.
#
# Usage: csi_test.py BIN_DIR [FOLDER for kernel and tools]
import ctypes
import os
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
from agro_testlib import GIB, MIB, scratch_dir, step, wait_for  # noqa: E402
from csi_calls import Stub, capability, grpc, load_messages  # noqa: E402
from guest import TapCluster, prepare  # noqa: E402

NODE = "guest"


class Test:
    def __init__(self, bin_dir, folder):
        self.cluster = TapCluster(bin_dir)
        # All that this process opens from now on is in the cluster's network.
        with open(f"/run/netns/{self.cluster.namespace}") as file:
            assert ctypes.CDLL(None).setns(file.fileno(), 0x40000000) == 0
        step("the guest boots")
        self.guest = self.cluster.boot(folder, os.path.join(HERE, "csi.sh"))
        self.guest.wait_for_line("SHELL_IS_THERE", 120)
        wait_for("the guest's shell", lambda: self.shell("echo there", or_else="") == "there", 30, 0.3)
        self.pb = load_messages(scratch_dir())
        self.connect()

    def connect(self):
        wait_for("agrocsi serves", lambda: self.shell("pidof agrocsi >/dev/null && tail -n 1 /tmp/agrocsi.log | grep -c serves") == "1", 60, 0.3)
        self.stub = Stub(self.pb, f"{self.cluster.GUEST}:9000")

    def shell(self, command, or_else=None):
        """What `command` prints in the guest; `or_else` when nobody listens there."""
        try:
            return self.ask_shell(command)
        except ConnectionRefusedError:
            if or_else is None:
                raise
            return or_else

    def ask_shell(self, command):
        with socket.create_connection((self.cluster.GUEST, 9001), timeout=120) as stream:
            stream.sendall(f"{command}\nexit\n".encode())
            stream.shutdown(socket.SHUT_WR)
            text = b""
            while part := stream.recv(65536):
                text += part
        return text.decode(errors="replace").strip()

    def c(self, method, **fields):
        return self.stub("Controller", method, **fields)

    def n(self, method, **fields):
        """Again while a call of agrocsi's own is under way, as an orchestrator would."""
        for patience in range(120, -1, -1):
            try:
                return self.stub("Node", method, **fields)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ABORTED or patience == 0:
                    raise
            time.sleep(0.5)

    # --- the way of a volume, each step twice: the second changes nothing ---
    def create(self, name, how, size=64 * MIB, **more):
        volumes = [self.c("CreateVolume", name=name, capacity_range={"required_bytes": size}, volume_capabilities=[how], **more).volume
                   for _ in range(2)]
        assert volumes[0] == volumes[1]
        return volumes[0].volume_id

    def paths(self, volume):
        return dict(volume_id=volume, staging_target_path=f"/tmp/pods/stage-{volume}")

    def target(self, volume):
        return f"/tmp/pods/target-{volume}"

    def use(self, volume, how):
        self.shell(f"mkdir -p /tmp/pods/stage-{volume}")
        for _ in range(2):
            self.c("ControllerPublishVolume", volume_id=volume, node_id=NODE, volume_capability=how)
            self.n("NodeStageVolume", volume_capability=how, **self.paths(volume))
            self.n("NodePublishVolume", volume_capability=how, target_path=self.target(volume), **self.paths(volume))
        return self.target(volume)

    def leave(self, volume):
        for _ in range(2):
            self.n("NodeUnpublishVolume", volume_id=volume, target_path=self.target(volume))
            self.n("NodeUnstageVolume", **self.paths(volume))
            self.c("ControllerUnpublishVolume", volume_id=volume, node_id=NODE)

    def write(self, path, size_mib):
        done = self.shell(f"dd if=/dev/urandom of={path} bs=1M count={size_mib} conv=fsync 2>/dev/null && sha256sum < {path}")
        assert len(done.split()[0]) == 64, done
        return done

    def read(self, path):
        return self.shell(f"echo 3 > /proc/sys/vm/drop_caches; sha256sum < {path}")

    def attached(self):
        return self.shell("ls /sys/block/nbd*/pid 2>/dev/null | wc -l")

    # --- steps ---
    def file_system(self):
        step("a volume with a file system")
        how = capability(self.pb, fs_type="ext4")
        volume = self.create("files", how)
        path = self.use(volume, how)
        assert self.shell(f"grep -c ' {path} ext4 ' /proc/mounts") == "1"
        digest = self.write(f"{path}/one", 8)
        assert self.read(f"{path}/one") == digest
        usage = self.n("NodeGetVolumeStats", volume_id=volume, volume_path=path)
        room = next(one for one in usage.usage if one.unit == 1)
        assert 40 * MIB < room.total <= 64 * MIB and room.used >= 8 * MIB, usage
        return volume, how, path, digest

    def restart(self, volume, how, path, digest):
        step("agrocsi is killed and started again; the volume stays in use")
        self.stub.close()
        self.shell("touch /tmp/hold; kill -9 $(pidof agrocsi); echo killed >> /tmp/agrocsi.log")
        assert self.write(f"{path}/meanwhile", 1) != digest
        self.shell("rm /tmp/hold")
        self.connect()
        assert self.use(volume, how) == path and self.attached() == "1"
        assert self.read(f"{path}/one") == digest
        step("its agroblock is killed; staged again, the volume goes on with the same device")
        before = self.shell(f"grep ' {path} ' /proc/mounts")
        self.shell("kill -9 $(pidof agroblock)")
        wait_for("agroblock is gone", lambda: self.shell("pidof agroblock") == "", 20, 0.3)
        assert self.n("NodeGetVolumeStats", volume_id=volume, volume_path=path).volume_condition.abnormal
        assert self.use(volume, how) == path and self.shell(f"grep ' {path} ' /proc/mounts") == before
        assert self.read(f"{path}/one") == digest
        self.write(f"{path}/after", 1)
        assert not self.n("NodeGetVolumeStats", volume_id=volume, volume_path=path).volume_condition.abnormal

    def growth(self, volume, how, path, digest):
        step("it grows while it is in use")
        before = int(self.shell(f"df -k {path} | tail -n 1 | awk '{{ print $2 }}'"))
        for _ in range(2):
            answer = self.c("ControllerExpandVolume", volume_id=volume, capacity_range={"required_bytes": 256 * MIB}, volume_capability=how)
            assert answer.capacity_bytes == 256 * MIB and answer.node_expansion_required
            self.n("NodeExpandVolume", volume_path=path, capacity_range={"required_bytes": 256 * MIB}, **self.paths(volume))
        after = int(self.shell(f"df -k {path} | tail -n 1 | awk '{{ print $2 }}'"))
        assert after > 3 * before and after > 200 * 1024, (before, after)
        self.write(f"{path}/large", 100)
        assert self.read(f"{path}/one") == digest

    def clone(self, volume, how, digest):
        step("a clone of a snapshot is mounted beside it")
        self.shell("sync")
        snapshot = self.c("CreateSnapshot", source_volume_id=volume, name="s").snapshot
        self.write(f"{self.target(volume)}/later", 1)
        copy = self.create("copy", how, 256 * MIB, volume_content_source={"snapshot": {"snapshot_id": snapshot.snapshot_id}})
        path = self.use(copy, how)
        assert self.attached() == "2"
        assert self.read(f"{path}/one") == digest
        assert self.shell(f"ls {path}/later 2>/dev/null") == ""
        return copy, snapshot.snapshot_id

    def block(self):
        step("a volume as a block device")
        how = capability(self.pb)
        volume = self.create("raw", how, 32 * MIB)
        path = self.use(volume, how)
        assert self.shell(f"blockdev --getsize64 {path}") == str(32 * MIB)
        digest = self.write(path, 32)
        self.leave(volume)
        assert self.use(volume, how) == path and self.read(path) == digest
        return volume

    def end(self, volumes, snapshot, files, how, digest):
        step("all is given back; what was written is there at the next use")
        for volume in volumes:
            self.leave(volume)
        assert self.attached() == "0" and self.shell("pidof agroblock") == "", self.shell("ps")
        assert self.shell("grep -c /tmp/pods /proc/mounts") == "0"
        path = self.use(files, how)
        assert self.read(f"{path}/one") == digest, "formatted again?"
        self.leave(files)
        self.c("DeleteSnapshot", snapshot_id=snapshot)
        for volume in volumes:
            self.c("DeleteVolume", volume_id=volume)
        assert not self.c("ListVolumes").entries

    def all(self):
        capacity = self.c("GetCapacity").available_capacity
        assert GIB < capacity < 6 * GIB, capacity
        assert self.n("NodeGetInfo").node_id == NODE
        files, how, path, digest = self.file_system()
        self.restart(files, how, path, digest)
        self.growth(files, how, path, digest)
        copy, snapshot = self.clone(files, how, digest)
        raw = self.block()
        self.end([copy, raw, files], snapshot, files, how, digest)


def main():
    bin_dir = os.path.abspath(sys.argv[1])
    folder = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else os.path.join(bin_dir, "..", "guest"))
    step("kernel, initrd, tools")
    prepare(folder, bin_dir)
    step("etcd and three peers")
    test = Test(bin_dir, folder)
    try:
        test.all()
    except BaseException:
        print(test.shell("tail -n 40 /tmp/agrocsi.log; cat /tmp/csi/*.log | tail -n 20; dmesg | tail -n 10"), flush=True)
        raise
    test.shell("echo 0 > /tmp/status; kill $(pidof agrocsi)")
    assert test.guest.wait(60) == 0
    step("passed")


main()
