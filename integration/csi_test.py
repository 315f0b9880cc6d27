#!/usr/bin/python3
"""The CSI driver over its sockets: a conformance suite of our own.

Goal: each call of CSI 1.9 that agrocsi serves answers good, repeated, concurrent and bad arguments as the specification
says, and a volume moves from a node that died without a write of that node after it. Method: a real agro standalone; agrocsi
as the controller with node n1, and another as node n2, with --fake-devices (no kernel here has nbd); stubs are made from
src/csi/csi.proto by protoc, so that what is on the wire is what the file says. With "etcd" the metadata are in one, and three
peers and an agroblock are processes of their own.
Usage: csi_test.py BIN_DIR [etcd]
"""
import concurrent.futures
import json
import os
import signal
import socket
import sys

import agro_testlib as lib
from agro_cluster import Cluster
from agro_testlib import GIB, MIB, step, wait_for

from csi_calls import MULTI_READER, MULTI_WRITER, READER, SINGLE_WRITER, WRITER, Stub, capability, grpc, load_messages

Code = grpc.StatusCode


class Driver(lib.Process):
    """agrocsi; calls are driver.call("Service", "Method", field=...)."""

    def __init__(self, bin_dir, pb, directory, metadata, node, mode):
        self.pb, self.node, self.dir = pb, node, f"{directory}/{node}"
        os.makedirs(self.dir, exist_ok=True)
        self.fake, self.socket = f"{self.dir}/fake", f"{self.dir}/csi.sock"
        super().__init__([f"{bin_dir}/agrocsi", "--endpoint", f"unix://{self.socket}", "--mds", metadata, "--node-id", node,
                          "--mode", mode, "--state-dir", f"{self.dir}/state", "--fake-devices", self.fake, "-v"],
                         f"{self.dir}/agrocsi.log")
        wait_for(f"agrocsi {node} serves", lambda: "serves" in self.log() or not self.alive(), 20)
        assert self.alive(), self.log()
        self.call = Stub(pb, f"unix:{self.socket}")

    def stop(self):
        self.call.close()
        assert self.terminate(40) == 0, self.log()[-2000:]


class EtcdCluster(Cluster):
    """What agro standalone is for this suite, with the metadata in etcd."""

    def __init__(self, bin_dir, directory):
        lib.need_tools("etcd")
        ports = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        client, peer = (f"127.0.0.1:{port}" for port in ports)
        self.etcd = lib.Process(
            ["etcd", "--data-dir", f"{directory}/etcd", "--listen-client-urls", f"http://{client}",
             "--advertise-client-urls", f"http://{client}", "--listen-peer-urls", f"http://{peer}",
             "--initial-advertise-peer-urls", f"http://{peer}", "--initial-cluster", f"default=http://{peer}"],
            f"{directory}/etcd.log")
        wait_for("etcd answers", lambda: self.try_version(client), 30)
        super().__init__(bin_dir, f"{directory}/c", peer_size="2GiB", block_size="256KiB", metadata=f"etcd://{client}")
        self.start()

    def try_version(self, client):
        assert self.etcd.alive(), self.etcd.log()[-2000:]
        try:
            socket.create_connection(client.split(":"), timeout=1).close()
            return True
        except OSError:
            return False

    def stop(self):
        super().stop()
        self.etcd.terminate()


class Test:
    def __init__(self, bin_dir, directory, etcd=False):
        self.bin, self.dir = bin_dir, directory
        self.pb = load_messages(directory)
        # Peers of n1 say where it is.
        if etcd:
            self.server = EtcdCluster(bin_dir, directory)
            self.metadata = self.server.metadata
        else:
            self.server = lib.Standalone(bin_dir, f"{directory}/data", "--size", "2GiB", "--block-size", "256KiB")
            self.metadata = f"sqlite:{directory}/data/meta.db"
        self.n1 = self.start("n1", "all")
        self.n2 = self.start("n2", "node")

    def start(self, node, mode):
        return Driver(self.bin, self.pb, self.dir, self.metadata, node, mode)

    def ctl(self, *args):
        return lib.run([f"{self.bin}/agroctl", "-C", self.metadata, *args]).stdout

    # --- calls ---
    def c(self, method, **fields):
        return self.n1.call("Controller", method, **fields)

    def n(self, method, driver=None, **fields):
        return (driver or self.n1).call("Node", method, **fields)

    def refuse(self, code, call, method, **fields):
        try:
            answer = call(method, **fields)
        except grpc.RpcError as error:
            assert error.code() == code, f"{method} {fields}: {error.code()} ({error.details()}), not {code}"
            assert error.details(), f"{method}: no words"
            return error.details()
        raise AssertionError(f"{method} {fields} succeeded, not {code}: {answer}")

    def capability(self, mode=WRITER, fs_type=None):
        return capability(self.pb, mode, fs_type)

    def create(self, name, size=16 * MIB, **more):
        more.setdefault("volume_capabilities", [self.capability(fs_type="")])
        return self.c("CreateVolume", name=name, capacity_range={"required_bytes": size}, **more).volume

    def together(self, count, call):
        """The answers of `count` calls at once; ABORTED is a good one, and is left out."""
        def one(_):
            try:
                return call()
            except grpc.RpcError as error:
                assert error.code() == Code.ABORTED, error
                return None
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            answers = [answer for answer in pool.map(one, range(count)) if answer is not None]
        assert answers, "all were aborted"
        return answers

    # --- the suite ---
    def identity(self):
        step("identity")
        for driver in (self.n1, self.n2):
            info = driver.call("Identity", "GetPluginInfo")
            assert info.name == "csi.agro.storage" and info.vendor_version
            assert driver.call("Identity", "Probe").ready.value
        kinds = [c.service.type for c in self.n1.call("Identity", "GetPluginCapabilities").capabilities]
        assert 1 in kinds and 2 in kinds, kinds
        kinds = [c.service.type for c in self.n2.call("Identity", "GetPluginCapabilities").capabilities]
        assert 1 not in kinds, kinds
        try:
            self.n2.call("Controller", "ListVolumes")
            raise AssertionError("n2 is no controller")
        except grpc.RpcError as error:
            assert error.code() == Code.UNIMPLEMENTED
        assert len(self.c("ControllerGetCapabilities").capabilities) == 14
        assert len(self.n("NodeGetCapabilities").capabilities) == 5
        info = self.n("NodeGetInfo", self.n2)
        assert info.node_id == "n2" and info.accessible_topology.segments["topology.csi.agro.storage/host"] == "n2"

    def volumes(self):
        step("CreateVolume, DeleteVolume")
        made = self.create("pvc-1")
        assert made.capacity_bytes == 16 * MIB and made.volume_context["name"] == "pvc-1"
        assert self.create("pvc-1") == made  # repeated
        assert self.create("pvc-1", 1) == made  # a size that this one has, too
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateVolume", name="pvc-1", capacity_range={"required_bytes": GIB},
                    volume_capabilities=[self.capability()])
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateVolume", name="pvc-1", capacity_range={"limit_bytes": MIB},
                    volume_capabilities=[self.capability()])
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateVolume", name="pvc-1", parameters={"replication": "1"},
                    volume_capabilities=[self.capability()])
        ids = {v.volume_id for v in self.together(8, lambda: self.create("pvc-2"))}
        assert len(ids) == 1, ids
        odd = self.create("pvc with ünicode / and more", 5000)
        assert odd.capacity_bytes == 8192
        good = dict(name="x", volume_capabilities=[self.capability()])
        for bad in (dict(name=""), dict(name="a" * 129), dict(name="a\nb"), dict(volume_capabilities=[]),
                    dict(volume_capabilities=[self.pb.VolumeCapability()]),
                    dict(volume_capabilities=[self.capability(MULTI_WRITER)]),
                    dict(volume_capabilities=[self.capability(MULTI_READER)]),
                    dict(volume_capabilities=[self.capability(), self.capability(fs_type="")]),
                    dict(volume_capabilities=[self.capability(fs_type="ntfs")]),
                    dict(parameters={"replication": "99"}), dict(parameters={"nonsense": "1"}),
                    dict(mutable_parameters={"iops": "-1"}), dict(capacity_range={"required_bytes": -1}),
                    dict(volume_content_source=self.pb.VolumeContentSource())):
            self.refuse(Code.INVALID_ARGUMENT, self.c, "CreateVolume", **{**good, **bad})
        for bad in ({"required_bytes": 5000, "limit_bytes": 6000}, {"required_bytes": (1 << 50) + 1},
                    {"limit_bytes": 100}):
            self.refuse(Code.OUT_OF_RANGE, self.c, "CreateVolume", **{**good, "capacity_range": bad})
        limited = self.create("pvc-3", mutable_parameters={"iops": "500"}, parameters={"replication": "1"})
        record = next(v for v in json.loads(self.ctl("volume", "list", "--json")) if v["name"] == "pvc-3")
        assert record["iops_max"] == 500 and record["copies"] == 1, record
        self.c("ControllerModifyVolume", volume_id=limited.volume_id, mutable_parameters={"iops": "none", "bandwidth": "1MiB"})
        record = next(v for v in json.loads(self.ctl("volume", "list", "--json")) if v["name"] == "pvc-3")
        assert record["iops_max"] == 0 and record["bandwidth_max_bytes"] == MIB, record
        self.refuse(Code.NOT_FOUND, self.c, "ControllerModifyVolume", volume_id="00000000ff", mutable_parameters={"iops": "1"})
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ControllerModifyVolume", volume_id=limited.volume_id,
                    mutable_parameters={"x": "1"})
        for volume in (limited, odd):
            self.together(4, lambda: self.c("DeleteVolume", volume_id=volume.volume_id))
            self.c("DeleteVolume", volume_id=volume.volume_id)
        self.c("DeleteVolume", volume_id="no id of ours")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "DeleteVolume")
        assert "pvc-3" not in self.ctl("volume", "list")
        return made

    def queries(self, volume):
        step("ListVolumes, ControllerGetVolume, ValidateVolumeCapabilities, GetCapacity")
        for number in range(5):
            self.create(f"page-{number}")
        names = [e.volume.volume_context["name"] for e in self.c("ListVolumes").entries]
        assert len(names) == 7 and len(set(names)) == 7, names
        paged, token = [], ""
        while True:
            page = self.c("ListVolumes", max_entries=3, starting_token=token)
            assert len(page.entries) <= 3
            paged += [e.volume.volume_context["name"] for e in page.entries]
            token = page.next_token
            if not token:
                break
            if len(paged) == 3:  # what goes in between does no harm
                gone = page.entries[-1].volume
                self.c("DeleteVolume", volume_id=gone.volume_id)
        assert paged == names, (paged, names)
        self.refuse(Code.ABORTED, self.c, "ListVolumes", starting_token="nonsense")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ListVolumes", max_entries=-1)
        got = self.c("ControllerGetVolume", volume_id=volume.volume_id)
        assert got.volume.capacity_bytes == volume.capacity_bytes and not got.status.volume_condition.abnormal
        self.refuse(Code.NOT_FOUND, self.c, "ControllerGetVolume", volume_id="x")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ControllerGetVolume")
        good = dict(volume_id=volume.volume_id, volume_capabilities=[self.capability(fs_type="xfs")])
        assert self.c("ValidateVolumeCapabilities", **good).HasField("confirmed")
        for bad in (dict(volume_capabilities=[self.capability(MULTI_WRITER)]), dict(parameters={"nonsense": "1"})):
            answer = self.c("ValidateVolumeCapabilities", **{**good, **bad})
            assert not answer.HasField("confirmed") and answer.message
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ValidateVolumeCapabilities", volume_id=volume.volume_id)
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ValidateVolumeCapabilities", volume_capabilities=[self.capability()])
        self.refuse(Code.NOT_FOUND, self.c, "ValidateVolumeCapabilities", **{**good, "volume_id": "x"})
        whole = self.c("GetCapacity")
        assert 2 * GIB < whole.available_capacity < 3 * GIB, whole  # 6 GiB, two copies, and the reserve
        assert self.c("GetCapacity", parameters={"replication": "1"}).available_capacity > 1.9 * whole.available_capacity
        assert self.c("GetCapacity", volume_capabilities=[self.capability(MULTI_WRITER)]).available_capacity == 0
        assert whole.maximum_volume_size.value == 1 << 50 and whole.minimum_volume_size.value == 4096
        self.refuse(Code.INVALID_ARGUMENT, self.c, "GetCapacity", parameters={"nonsense": "1"})

    def snapshots(self, volume):
        step("CreateSnapshot, DeleteSnapshot, ListSnapshots")
        def snap(name, volume_id=volume.volume_id):
            return self.c("CreateSnapshot", source_volume_id=volume_id, name=name).snapshot
        first = snap("snap-1")
        assert first.ready_to_use and first.size_bytes == volume.capacity_bytes and first.creation_time.seconds > 10**9
        assert first.source_volume_id == volume.volume_id
        assert snap("snap-1") == first
        other = self.create("other")
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateSnapshot", source_volume_id=other.volume_id, name="snap-1")
        assert len({s.snapshot_id for s in self.together(6, lambda: snap("snap-2"))}) == 1
        third = snap("snap of other", other.volume_id)
        self.refuse(Code.INVALID_ARGUMENT, self.c, "CreateSnapshot", name="x")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "CreateSnapshot", source_volume_id=volume.volume_id)
        self.refuse(Code.INVALID_ARGUMENT, self.c, "CreateSnapshot", source_volume_id=volume.volume_id, name="x", parameters={"a": "b"})
        self.refuse(Code.NOT_FOUND, self.c, "CreateSnapshot", source_volume_id="00000000ff", name="x")

        def ids(**fields):
            return [e.snapshot.snapshot_id for e in self.c("ListSnapshots", **fields).entries]
        every = ids()
        assert len(every) == 3 and first.snapshot_id in every, every
        assert ids(source_volume_id=other.volume_id) == [third.snapshot_id]
        assert ids(snapshot_id=first.snapshot_id) == [first.snapshot_id]
        assert ids(snapshot_id="nonsense") == [] and ids(source_volume_id="nonsense") == []
        page = self.c("ListSnapshots", max_entries=2)
        assert len(page.entries) == 2 and page.next_token
        rest = self.c("ListSnapshots", max_entries=2, starting_token=page.next_token)
        assert [e.snapshot.snapshot_id for e in [*page.entries, *rest.entries]] == every and not rest.next_token
        self.refuse(Code.ABORTED, self.c, "ListSnapshots", starting_token="nonsense")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ListSnapshots", max_entries=-1)
        self.refuse(Code.FAILED_PRECONDITION, self.c, "DeleteVolume", volume_id=other.volume_id)
        for _ in range(2):
            self.c("DeleteSnapshot", snapshot_id=third.snapshot_id)
        self.c("DeleteSnapshot", snapshot_id="nonsense")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "DeleteSnapshot")
        self.c("DeleteVolume", volume_id=other.volume_id)
        return first

    def clones(self, volume, snapshot):
        step("clones of snapshots and volumes")
        of_snapshot = {"snapshot": {"snapshot_id": snapshot.snapshot_id}}
        of_volume = {"volume": {"volume_id": volume.volume_id}}
        one = self.create("clone-1", volume_content_source=of_snapshot)
        assert one.content_source.snapshot.snapshot_id == snapshot.snapshot_id
        assert self.create("clone-1", volume_content_source=of_snapshot) == one
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateVolume", name="clone-1", volume_capabilities=[self.capability()])
        self.refuse(Code.ALREADY_EXISTS, self.c, "CreateVolume", name="clone-1", volume_capabilities=[self.capability()],
                    volume_content_source={"snapshot": {"snapshot_id": f"{volume.volume_id}@snap-2"}})
        larger = self.create("clone-2", 32 * MIB, volume_content_source=of_volume)
        assert larger.capacity_bytes == 32 * MIB
        assert self.create("clone-2", 32 * MIB, volume_content_source=of_volume) == larger
        assert len({v.volume_id for v in self.together(4, lambda: self.create("clone-3", volume_content_source=of_volume))}) == 1
        self.refuse(Code.OUT_OF_RANGE, self.c, "CreateVolume", name="x", volume_capabilities=[self.capability()],
                    capacity_range={"limit_bytes": MIB}, volume_content_source=of_volume)
        for source in ({"snapshot": {"snapshot_id": "00000000ff@x"}}, {"volume": {"volume_id": "00000000ff"}},
                       {"snapshot": {"snapshot_id": snapshot.source_volume_id + "@none"}}, {"snapshot": {"snapshot_id": "x"}}):
            self.refuse(Code.NOT_FOUND, self.c, "CreateVolume", name="x", volume_capabilities=[self.capability()],
                        volume_content_source=source)
        assert self.ctl("block", "snapshot", "list", "pvc-1").count("snap-") == 2  # what clones needed is gone
        for name in ("clone-1", "clone-2", "clone-3"):
            self.c("DeleteVolume", volume_id=self.find(name))

    def find(self, name):
        return next(e.volume.volume_id for e in self.c("ListVolumes").entries if e.volume.volume_context["name"] == name)

    def publishing(self, volume):
        step("ControllerPublishVolume, ControllerUnpublishVolume")
        good = dict(volume_id=volume.volume_id, node_id="n1", volume_capability=self.capability(fs_type=""))
        self.c("ControllerPublishVolume", **good)
        self.c("ControllerPublishVolume", **good)
        self.together(4, lambda: self.c("ControllerPublishVolume", **good))
        self.refuse(Code.ALREADY_EXISTS, self.c, "ControllerPublishVolume", **{**good, "readonly": True})
        assert "n1" in self.refuse(Code.FAILED_PRECONDITION, self.c, "ControllerPublishVolume", **{**good, "node_id": "n2"})
        for code, bad in ((Code.NOT_FOUND, dict(volume_id="x")), (Code.NOT_FOUND, dict(node_id="n3")),
                          (Code.INVALID_ARGUMENT, dict(volume_id="")), (Code.INVALID_ARGUMENT, dict(node_id="")),
                          (Code.INVALID_ARGUMENT, dict(volume_capability=None)),
                          (Code.INVALID_ARGUMENT, dict(volume_capability=self.capability(MULTI_WRITER)))):
            self.refuse(code, self.c, "ControllerPublishVolume", **{**good, **bad})
        assert list(self.c("ControllerGetVolume", volume_id=volume.volume_id).status.published_node_ids) == ["n1"]
        entry = next(e for e in self.c("ListVolumes").entries if e.volume.volume_id == volume.volume_id)
        assert list(entry.status.published_node_ids) == ["n1"]
        self.refuse(Code.FAILED_PRECONDITION, self.c, "DeleteVolume", volume_id=volume.volume_id)
        self.c("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="n2")  # it is not there
        assert list(self.c("ControllerGetVolume", volume_id=volume.volume_id).status.published_node_ids) == ["n1"]
        for _ in range(2):
            self.c("ControllerUnpublishVolume", volume_id=volume.volume_id)  # of all nodes
        self.c("ControllerUnpublishVolume", volume_id="x", node_id="n1")
        self.refuse(Code.INVALID_ARGUMENT, self.c, "ControllerUnpublishVolume", node_id="n1")

    def mounts(self, driver=None):
        with open(f"{(driver or self.n1).fake}/mounts.json") as file:
            return json.load(file)

    def node(self, volume):
        step("NodeStageVolume to NodeUnstageVolume, with a file system")
        staging, target = f"{self.dir}/stage/globalmount", f"{self.dir}/pods/1/mount"
        capability = self.capability(fs_type="xfs")
        stage = dict(volume_id=volume.volume_id, staging_target_path=staging, volume_capability=capability)
        publish = dict(stage, target_path=target)
        self.refuse(Code.FAILED_PRECONDITION, self.n, "NodePublishVolume", **publish)  # not staged
        self.c("ControllerPublishVolume", volume_id=volume.volume_id, node_id="n1", volume_capability=capability)
        self.together(4, lambda: self.n("NodeStageVolume", **stage))
        self.n("NodeStageVolume", **stage)
        mounts = self.mounts()
        device = mounts["mounts"][staging]["source"]
        assert mounts["file_systems"][device]["type"] == "xfs" and os.path.getsize(device) == volume.capacity_bytes
        self.refuse(Code.ALREADY_EXISTS, self.n, "NodeStageVolume", **{**stage, "staging_target_path": f"{self.dir}/else"})
        self.refuse(Code.ALREADY_EXISTS, self.n, "NodeStageVolume", **{**stage, "volume_capability": self.capability()})
        for code, bad in ((Code.INVALID_ARGUMENT, dict(volume_id="")), (Code.INVALID_ARGUMENT, dict(staging_target_path="")),
                          (Code.INVALID_ARGUMENT, dict(staging_target_path="relative")),
                          (Code.INVALID_ARGUMENT, dict(staging_target_path="/a/../b")),
                          (Code.INVALID_ARGUMENT, dict(volume_capability=None)), (Code.NOT_FOUND, dict(volume_id="x")),
                          (Code.NOT_FOUND, dict(volume_id="00000000ff"))):
            self.refuse(code, self.n, "NodeStageVolume", **{**stage, **bad})
        for _ in range(2):
            self.n("NodePublishVolume", **publish)
        assert self.mounts()["mounts"][target] == {"source": staging, "fs_type": "bind", "read_only": False}
        self.n("NodePublishVolume", **{**publish, "target_path": target + "2", "readonly": True})
        assert self.mounts()["mounts"][target + "2"]["read_only"]
        self.refuse(Code.ALREADY_EXISTS, self.n, "NodePublishVolume", **{**publish, "readonly": True})
        for code, bad in ((Code.INVALID_ARGUMENT, dict(volume_id="")), (Code.INVALID_ARGUMENT, dict(target_path="")),
                          (Code.INVALID_ARGUMENT, dict(volume_capability=None)), (Code.NOT_FOUND, dict(volume_id="x")),
                          (Code.FAILED_PRECONDITION, dict(staging_target_path="/else", target_path="/t")),
                          (Code.FAILED_PRECONDITION, dict(volume_capability=self.capability(SINGLE_WRITER, "xfs"), target_path="/t"))):
            self.refuse(code, self.n, "NodePublishVolume", **{**publish, **bad})
        stats = self.n("NodeGetVolumeStats", volume_id=volume.volume_id, volume_path=target)
        assert [u.unit for u in stats.usage] == [1, 2] and stats.usage[0].total > 0 and not stats.volume_condition.abnormal
        for code, bad in ((Code.INVALID_ARGUMENT, dict(volume_path="")), (Code.INVALID_ARGUMENT, dict(volume_id="")),
                          (Code.NOT_FOUND, dict(volume_path="/nowhere")), (Code.NOT_FOUND, dict(volume_id="x"))):
            self.refuse(code, self.n, "NodeGetVolumeStats", **{**dict(volume_id=volume.volume_id, volume_path=target), **bad})
        self.expansion(volume, target, device)
        self.restarted(volume, stage)
        self.refuse(Code.FAILED_PRECONDITION, self.n, "NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=staging)
        for path in (target, target, target + "2"):
            self.n("NodeUnpublishVolume", volume_id=volume.volume_id, target_path=path)
        assert not os.path.exists(target) and target not in self.mounts()["mounts"]
        self.n("NodeUnpublishVolume", volume_id=volume.volume_id, target_path=self.dir)  # not ours: stays
        assert os.path.isdir(self.dir)
        self.refuse(Code.INVALID_ARGUMENT, self.n, "NodeUnpublishVolume", volume_id=volume.volume_id)
        for _ in range(2):
            self.n("NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=staging)
        self.refuse(Code.INVALID_ARGUMENT, self.n, "NodeUnstageVolume", volume_id=volume.volume_id)
        assert self.mounts()["mounts"] == {}
        # With another file system than it has, nothing is overwritten.
        self.refuse(Code.FAILED_PRECONDITION, self.n, "NodeStageVolume", **{**stage, "volume_capability": self.capability(fs_type="ext4")})
        self.n("NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=staging)
        self.c("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="n1")

    def expansion(self, volume, target, device):
        step("ControllerExpandVolume, NodeExpandVolume")
        grown = {"required_bytes": 24 * MIB}
        self.refuse(Code.OUT_OF_RANGE, self.n, "NodeExpandVolume", volume_id=volume.volume_id, volume_path=target, capacity_range=grown)
        for _ in range(2):
            answer = self.c("ControllerExpandVolume", volume_id=volume.volume_id, capacity_range=grown)
            assert answer.capacity_bytes == 24 * MIB and answer.node_expansion_required
        answer = self.c("ControllerExpandVolume", volume_id=volume.volume_id, capacity_range=grown, volume_capability=self.capability())
        assert not answer.node_expansion_required
        for _ in range(2):
            answer = self.n("NodeExpandVolume", volume_id=volume.volume_id, volume_path=target, capacity_range=grown)
            assert answer.capacity_bytes == 24 * MIB
        assert self.mounts()["file_systems"][device]["size"] == 24 * MIB
        for code, bad in ((Code.NOT_FOUND, dict(volume_id="x")), (Code.INVALID_ARGUMENT, dict(volume_id="")),
                          (Code.INVALID_ARGUMENT, dict(capacity_range=None)),
                          (Code.OUT_OF_RANGE, dict(capacity_range={"limit_bytes": MIB})),
                          (Code.OUT_OF_RANGE, dict(capacity_range={"required_bytes": 1 << 51}))):
            self.refuse(code, self.c, "ControllerExpandVolume", **{**dict(volume_id=volume.volume_id, capacity_range=grown), **bad})
        self.refuse(Code.NOT_FOUND, self.n, "NodeExpandVolume", volume_id="x", volume_path=target)
        self.refuse(Code.INVALID_ARGUMENT, self.n, "NodeExpandVolume", volume_id=volume.volume_id)

    def restarted(self, volume, stage):
        step("the driver is restarted, and goes on")
        self.n1.stop()
        self.n1 = self.start("n1", "all")
        served = f"{self.n1.fake}/pvc-1.sock"
        wait_for("the volume has a server again", lambda: self.can_connect(served), 20)
        self.n("NodeStageVolume", **stage)
        assert len(self.n1_state()["volumes"][0]["targets"]) == 2

    def n1_state(self):
        with open(f"{self.n1.dir}/state/node.json") as file:
            return json.load(file)

    def can_connect(self, path, name="pvc-1"):
        import nbd
        try:
            lib.connect(path, name).shutdown()
            return True
        except nbd.Error:
            return False

    def block(self, volume):
        step("a block volume, read-only too")
        staging, target = f"{self.dir}/stage/block", f"{self.dir}/pods/2/device"
        capability = self.capability(READER)
        stage = dict(volume_id=volume.volume_id, staging_target_path=staging, volume_capability=capability)
        self.n("NodeStageVolume", **stage)
        self.n("NodePublishVolume", target_path=target, **stage)
        mount = self.mounts()["mounts"][target]
        assert os.path.isfile(target) and mount["source"].endswith(".img") and mount["read_only"], mount
        stats = self.n("NodeGetVolumeStats", volume_id=volume.volume_id, volume_path=target)
        assert len(stats.usage) == 1 and stats.usage[0].total == volume.capacity_bytes
        self.n("NodeUnpublishVolume", volume_id=volume.volume_id, target_path=target)
        assert not os.path.exists(target)
        self.n("NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=staging)

    def fencing(self):
        step("a node dies: its volume is used elsewhere, and it cannot write any more")
        import nbd
        volume = self.create("moves")
        capability = self.capability()
        publish = dict(volume_id=volume.volume_id, volume_capability=capability)
        stage = dict(publish, staging_target_path=f"{self.dir}/stage/moves")
        self.c("ControllerPublishVolume", node_id="n2", **publish)
        self.n("NodeStageVolume", self.n2, **stage)
        old = lib.connect(f"{self.n2.fake}/moves.sock", "moves")
        old.pwrite(b"a" * 4096, 0)
        old.flush()
        assert "csi node n2, " in self.ctl("volume", "list"), "the writer says for whom it is"
        # Its driver hears nothing any more; what serves the volume lives on and has it open.
        self.n2.popen.send_signal(signal.SIGSTOP)
        self.refuse(Code.FAILED_PRECONDITION, self.c, "ControllerPublishVolume", node_id="n1", **publish)
        for _ in range(2):
            self.c("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="n2")
        self.c("ControllerPublishVolume", node_id="n1", **publish)
        self.n("NodeStageVolume", **stage)
        new = lib.connect(f"{self.n1.fake}/moves.sock", "moves")
        assert new.pread(4096, 0) == b"a" * 4096, "what was flushed is there"
        new.pwrite(b"b" * 4096, 0)
        new.flush()
        try:
            old.pwrite(b"c" * 4096, 0)
            old.flush()
            raise AssertionError("the writer of the dead node was answered")
        except nbd.Error:
            pass
        assert new.pread(4096, 0) == b"b" * 4096
        new.shutdown()
        self.n2.popen.send_signal(signal.SIGCONT)
        self.n("NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=stage["staging_target_path"])
        self.c("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="n1")
        self.c("DeleteVolume", volume_id=volume.volume_id)
        self.n("NodeUnstageVolume", self.n2, volume_id=volume.volume_id, staging_target_path=stage["staging_target_path"])

    def snapshot_in_use(self, volume):
        step("a snapshot of a volume that is in use, and a clone of it")
        stage = dict(volume_id=volume.volume_id, staging_target_path=f"{self.dir}/stage/used", volume_capability=self.capability())
        self.n("NodeStageVolume", **stage)
        disk = lib.connect(f"{self.n1.fake}/pvc-1.sock", "pvc-1")
        disk.pwrite(b"s" * 4096, 8192)
        disk.flush()
        made = self.c("CreateSnapshot", source_volume_id=volume.volume_id, name="in-use").snapshot
        disk.pwrite(b"t" * 4096, 8192)
        disk.flush()
        self.create("of-in-use", 24 * MIB, volume_content_source={"snapshot": {"snapshot_id": made.snapshot_id}})
        assert lib.connect(self.server.nbd_socket, "of-in-use").pread(4096, 8192) == b"s" * 4096
        disk.shutdown()
        self.n("NodeUnstageVolume", volume_id=volume.volume_id, staging_target_path=stage["staging_target_path"])

    def smaller(self):
        step("a volume that was unpublished can be made smaller at once")
        import nbd
        for evicted in (False, True):
            name = f"shrinks-{evicted}"
            volume = self.create(name)
            publish = dict(volume_id=volume.volume_id, volume_capability=self.capability())
            stage = dict(publish, staging_target_path=f"{self.dir}/stage/{name}")
            self.c("ControllerPublishVolume", node_id="n1", **publish)
            self.n("NodeStageVolume", **stage)
            disk = lib.connect(f"{self.n1.fake}/{name}.sock", name)
            disk.pwrite(b"k" * 4096, 4096)
            disk.pwrite(b"l" * 4096, 12 * MIB)
            disk.flush()
            unstage = dict(volume_id=volume.volume_id, staging_target_path=stage["staging_target_path"])
            if not evicted:
                disk.shutdown()
                self.n("NodeUnstageVolume", **unstage)
            self.c("ControllerUnpublishVolume", volume_id=volume.volume_id, node_id="n1")
            self.ctl("volume", "resize", "--force", name, "8MiB")
            assert self.c("ControllerGetVolume", volume_id=volume.volume_id).volume.capacity_bytes == 8 * MIB
            again = lib.connect(self.server.nbd_socket, name)
            assert again.get_size() == 8 * MIB and again.pread(4096, 4096) == b"k" * 4096
            again.shutdown()
            if evicted:
                self.n("NodeUnstageVolume", **unstage)

    def bad_starts(self):
        step("bad command lines")
        for words, text in ((["--endpoint", "tcp://0.0.0.0:1"], "unix:///"), (["--endpoint", f"unix://{self.n1.socket}"], "in use"),
                            (["--endpoint", f"unix://{self.dir}/x.sock", "--node-id", "a/b"], "no node name"), ([], "--endpoint"),
                            (["--endpoint", f"unix://{self.dir}/x.sock", "--mode", "some"], "--mode")):
            done = lib.run([f"{self.bin}/agrocsi", "--mds", self.metadata, "--state-dir", f"{self.dir}/bad", "--fake-devices",
                            f"{self.dir}/bad", *words], check=False)
            assert done.returncode == 1 and text in done.stderr, (words, done)

    def run(self):
        self.identity()
        volume = self.volumes()
        self.queries(volume)
        self.bad_starts()
        snapshot = self.snapshots(volume)
        self.clones(volume, snapshot)
        self.publishing(volume)
        self.block(volume)
        self.node(volume)
        self.snapshot_in_use(volume)
        self.smaller()
        self.fencing()
        self.n2.stop()
        self.n1.stop()
        self.server.stop()


def end_left_behind(directory):
    """What drivers started, if they were killed: in sessions of their own, with our directory on their command line."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
            if b"agroblock" in words and directory.encode() in words:
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


def main():
    lib.need_tools("protoc")
    try:
        import nbd  # noqa: F401
    except ImportError:
        lib.skip("python3-libnbd is not installed")
    directory = lib.scratch_dir()
    lib.at_exit(lambda: end_left_behind(directory))
    Test(sys.argv[1], directory, etcd=sys.argv[2:] == ["etcd"]).run()
    print("ok")


main()
