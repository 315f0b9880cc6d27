# Calls of CSI, for the tests of agrocsi. Stubs are made from src/csi/csi.proto by protoc, so that what is on the wire is what the file says.
import os
import subprocess
import sys

import agro_testlib as lib

try:
    import grpc
    import google.protobuf  # noqa: F401
except ImportError:
    lib.skip("python3-grpcio and python3-protobuf are not installed")

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WRITER, READER, MULTI_READER, MULTI_WRITER, SINGLE_WRITER = 1, 2, 3, 5, 6


def load_messages(directory):
    subprocess.run(["protoc", f"-I{ROOT}/src/csi", f"--python_out={directory}", f"{ROOT}/src/csi/csi.proto"], check=True)
    sys.path.insert(0, directory)
    import csi_pb2
    return csi_pb2


class Stub:
    """stub("Service", "Method", field=...)."""

    def __init__(self, pb, target):
        self.pb, self.channel = pb, grpc.insecure_channel(target)

    def __call__(self, service, method, **fields):
        request = getattr(self.pb, f"{method}Request")(**fields)
        reply = getattr(self.pb, f"{method}Response")
        call = self.channel.unary_unary(f"/csi.v1.{service}/{method}", request_serializer=lambda m: m.SerializeToString(),
                                        response_deserializer=reply.FromString)
        return call(request, timeout=120)

    def close(self):
        self.channel.close()


def capability(pb, mode=WRITER, fs_type=None):
    """A mount with that file system ("": the default), or without one a block device."""
    made = pb.VolumeCapability(access_mode={"mode": mode})
    if fs_type is None:
        made.block.SetInParent()
    else:
        made.mount.fs_type = fs_type
    return made
