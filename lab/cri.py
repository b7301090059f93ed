"""A client of one containerd's CRI plugin that makes the calls kubelet makes, in kubelet's order.

Messages come back as protobuf made them (`Any`: their types exist only at run time). Around the calls
it does what kubelet does: pods' cgroups, log folders, attempts of containers.
"""

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc  # type: ignore[import-untyped]

from lab import cri_api, pod_cgroup
from lab.command import LabError
from lab.containerd import PrivateContainerd
from lab.images import Image
from lab.pod import Container, Pod, Resources

# kubelet gives a call two minutes, and starting a pod twice that.
CALL_TIMEOUT_S: Final = 120.0
RUN_TIMEOUT_S: Final = 240.0
_IMAGE_TIMEOUT_S: Final = 60.0
# How long an exec's end may take after its time is over.
_EXEC_MARGIN_S: Final = 30.0


class CriError(LabError):
    """A call failed; `code` is gRPC's name of the failure."""

    def __init__(self, method: str, code: str, details: str) -> None:
        super().__init__(f"{method}: {code}: {details}")
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process in a container ended, and what it wrote."""

    code: int
    stdout: str
    stderr: str


@dataclass(slots=True)
class RunningPod:
    """A pod that has been run, and how often each of its containers has been made."""

    id: str
    pod: Pod
    message: dict[str, Any]
    cgroup: str
    log_directory: Path
    attempts: dict[str, int] = field(default_factory=dict)


class Cri:
    """The runtime and image services of one daemon; close it, or use it as a context manager."""

    def __init__(self, daemon: PrivateContainerd) -> None:
        self.daemon = daemon
        self._pods: dict[str, RunningPod] = {}
        self._channel = grpc.insecure_channel(f"unix://{daemon.address}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; pods stay."""
        self._channel.close()

    def call(
        self,
        name: str,
        content: dict[str, Any] | None = None,
        *,
        service: str = "RuntimeService",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """Make one call and return its response; raises `CriError` when it fails."""
        request, response = cri_api.method(service, name)
        callable_ = self._channel.unary_unary(
            f"/{cri_api.NAMESPACE}.{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return callable_(cri_api.fill(request, content or {}), timeout=timeout_s)
        except grpc.RpcError as error:
            raise CriError(name, error.code().name, error.details() or "") from error

    def load_image(self, image: Image) -> None:
        """Import an image and return once the CRI knows it, which is a moment later."""
        self.daemon.ctr("image", "import", image.archive())
        deadline = time.monotonic() + _IMAGE_TIMEOUT_S
        wanted = {"image": {"image": image.name}}
        while not self.call("ImageStatus", wanted, service="ImageService").image.id:
            if time.monotonic() > deadline:
                raise LabError(f"{image.name}: imported, but unknown to the CRI")
            time.sleep(0.02)

    def is_ready(self) -> bool:
        """Tell whether the runtime and the network say that they are ready."""
        try:
            return all(one.status for one in self.call("Status").status.conditions)
        except CriError:
            return False

    # Pods

    def run_pod(self, pod: Pod, handler: str) -> RunningPod:
        """Start a pod's sandbox and return it; raises `CriError`, and removes what it made then."""
        uid = f"{self.daemon.namespace}-{secrets.token_hex(4)}"
        cgroup = pod_cgroup.name(self.daemon.namespace, uid)
        logs = self.daemon.logs / f"{pod.namespace}_{pod.name}_{uid}"
        logs.mkdir(parents=True)
        pod_cgroup.create(cgroup)
        message = pod.message(uid, logs, cgroup)
        request = {"config": message, "runtime_handler": handler}
        try:
            answer = self.call("RunPodSandbox", request, timeout_s=RUN_TIMEOUT_S)
        except BaseException:
            self.daemon.watch_logged()
            pod_cgroup.remove(cgroup)
            raise
        running = RunningPod(answer.pod_sandbox_id, pod, message, cgroup, logs)
        self._pods[running.id] = running
        self.daemon.watch(running.id)
        return running

    def stop_pod(self, pod: RunningPod) -> None:
        """Stop a pod with all its containers, as often as one likes."""
        self.call("StopPodSandbox", {"pod_sandbox_id": pod.id})

    def remove_pod(self, pod: RunningPod) -> None:
        """Remove a pod, and its cgroup if that is empty, as often as one likes."""
        self.call("RemovePodSandbox", {"pod_sandbox_id": pod.id})
        pod_cgroup.remove(pod.cgroup)
        self._pods.pop(pod.id, None)

    def remove_all_pods(self) -> None:
        """Stop and remove every pod that this client ran; the first failure is raised, at the end."""
        failures = []
        for pod in list(self._pods.values()):
            try:
                self.stop_pod(pod)
                self.remove_pod(pod)
            except CriError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def pod_status(self, pod: RunningPod) -> Any:
        """Return the CRI's PodSandboxStatus."""
        return self.call("PodSandboxStatus", {"pod_sandbox_id": pod.id}).status

    def pod_state(self, pod: RunningPod) -> str:
        """Return a pod's state, `READY` or `NOTREADY`."""
        return ("READY", "NOTREADY")[self.pod_status(pod).state]

    def pod_ips(self, pod: RunningPod) -> list[str]:
        """Return a pod's addresses, the first one first."""
        network = self.pod_status(pod).network
        return [network.ip, *(one.ip for one in network.additional_ips)]

    # Containers

    def create(self, pod: RunningPod, container: Container) -> str:
        """Create the next attempt of a container and return its id."""
        attempt = pod.attempts.get(container.name, 0)
        pod.attempts[container.name] = attempt + 1
        (pod.log_directory / container.name).mkdir(exist_ok=True)
        config = container.message(pod.pod, attempt)
        request = {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.message}
        container_id = str(self.call("CreateContainer", request).container_id)
        self.daemon.watch(container_id)
        return container_id

    def start(self, container_id: str) -> None:
        """Start a created container."""
        self.call("StartContainer", {"container_id": container_id})

    def run(self, pod: RunningPod, container: Container) -> str:
        """Create and start a container and return its id."""
        container_id = self.create(pod, container)
        self.start(container_id)
        return container_id

    def stop(self, container_id: str, grace_s: int = 0) -> None:
        """End a container: with its stop signal, and SIGKILL when it is there `grace_s` later."""
        self.call("StopContainer", {"container_id": container_id, "timeout": grace_s})

    def remove(self, container_id: str) -> None:
        """Remove a container."""
        self.call("RemoveContainer", {"container_id": container_id})

    def status(self, container_id: str) -> Any:
        """Return the CRI's ContainerStatus."""
        return self.call("ContainerStatus", {"container_id": container_id}).status

    def state(self, container_id: str) -> str:
        """Return a container's state: `CREATED`, `RUNNING`, `EXITED` or `UNKNOWN`."""
        return ("CREATED", "RUNNING", "EXITED", "UNKNOWN")[self.status(container_id).state]

    def wait_for_end(self, container_id: str, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Return a container's status once it has ended; raises `LabError` after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self.state(container_id) != "EXITED":
            if time.monotonic() > deadline:
                raise LabError(f"container {container_id} did not end within {timeout_s:g} s")
            time.sleep(0.02)
        return self.status(container_id)

    def update(self, container_id: str, resources: Resources) -> None:
        """Change a running container's limits."""
        request = {"container_id": container_id, "linux": resources.message()}
        self.call("UpdateContainerResources", request)

    def exec(self, container_id: str, *command: str, timeout_s: int = 60) -> Ended:
        """Run a process in a container to its end; raises `CriError` when it takes too long."""
        request = {"container_id": container_id, "cmd": list(command), "timeout": timeout_s}
        answer = self.call("ExecSync", request, timeout_s=timeout_s + _EXEC_MARGIN_S)
        said = (answer.stdout.decode(errors="replace"), answer.stderr.decode(errors="replace"))
        return Ended(answer.exit_code, *said)

    def sh(self, container_id: str, script: str, timeout_s: int = 60) -> str:
        """Return what a shell script writes in a container; raises `LabError` unless it exits 0."""
        ended = self.exec(container_id, "sh", "-c", script, timeout_s=timeout_s)
        if ended.code != 0:
            raise LabError(f"exit code {ended.code}: {script}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def log_path(self, pod: RunningPod, name: str, attempt: int = 0) -> Path:
        """Return where the log of a container's attempt is."""
        return pod.log_directory / name / f"{attempt}.log"

    # Statistics

    def stats(self, container_id: str) -> Any:
        """Return the CRI's ContainerStats."""
        return self.call("ContainerStats", {"container_id": container_id}).stats

    def pod_stats(self, pod: RunningPod) -> Any:
        """Return the CRI's PodSandboxStats."""
        return self.call("PodSandboxStats", {"pod_sandbox_id": pod.id}).stats

    # Streams

    def exec_url(
        self, container_id: str, *command: str, stdin: bool = False, tty: bool = False
    ) -> str:
        """Return where a client connects to run a process with streams."""
        request = {
            "container_id": container_id,
            "cmd": list(command),
            "tty": tty,
            "stdin": stdin,
            "stdout": True,
            "stderr": not tty,
        }
        return str(self.call("Exec", request).url)

    def attach_url(self, container_id: str, *, stdin: bool = False, tty: bool = False) -> str:
        """Return where a client connects to have a container's own streams."""
        request = {
            "container_id": container_id,
            "stdin": stdin,
            "tty": tty,
            "stdout": True,
            "stderr": not tty,
        }
        return str(self.call("Attach", request).url)

    def port_forward_url(self, pod: RunningPod) -> str:
        """Return where a client connects to reach ports of a pod's loopback."""
        return str(self.call("PortForward", {"pod_sandbox_id": pod.id}).url)
