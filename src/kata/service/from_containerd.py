"""containerd's messages as values of the domain."""

import os

from google.protobuf.any_pb2 import Any

from kata.agent_client.stdio import Stdio
from kata.host.mounts import Mount
from kata.sandbox.container import ContainerRequest
from kata.sandbox.errors import InvalidRequestError, UnimplementedError
from kata_api import any as packed
from kata_api import oci
from kata_api.containerd import task_pb2 as pb
from kata_api.containerd.runtime_options_pb2 import Options


def container_request(request: pb.CreateTaskRequest, namespace: str) -> ContainerRequest:
    """Return what a Create asks for, with the specification read from its bundle.

    Raises `InvalidRequestError` and `kata_api.oci.SpecError`.
    """
    if not request.id:
        raise InvalidRequestError("the request has no container id")
    if request.checkpoint:
        raise UnimplementedError(
            "restoring from a checkpoint is not implemented; create the container without one"
        )
    path = os.path.join(request.bundle, "config.json")
    try:
        spec = oci.load(path)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {path}: {error.strerror}") from error
    root = tuple(
        Mount(mount.type, mount.source, mount.target, tuple(mount.options))
        for mount in request.rootfs
    )
    return ContainerRequest(
        id=request.id,
        bundle=request.bundle,
        root=root or (_prepared_root(request.bundle, spec),),
        stdio=stdio(request, namespace),
        spec=spec,
    )


def _prepared_root(bundle: str, spec: oci.Spec) -> Mount:
    """Return the root filesystem that the caller has prepared in the bundle or elsewhere."""
    path = os.path.join(bundle, spec.root.path if spec.root else "rootfs")
    return Mount("bind", path, options=("rbind",))


def stdio(request: pb.CreateTaskRequest | pb.ExecProcessRequest, namespace: str) -> Stdio:
    """Return where a process's streams go."""
    return Stdio(request.stdin, request.stdout, request.stderr, request.terminal, namespace)


def config_path(options: Any) -> str | None:
    """Return the configuration file that the runtime options name, or None.

    Options of another runtime are not ours to read: containerd itself adds runc's in some cases.
    """
    if not packed.holds(options, Options):
        return None
    return packed.unpack(options, Options).config_path or None
