"""What a pod costs: its start, its network, its files; ours and runc's through containerd's CRI."""

import socket
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.containerd import PrivateContainerd
from lab.cri import Cri, RunningPod
from lab.images import BUSYBOX, PAUSE
from lab.pod import Container, Mount, Pod
from lab.progress import CONSOLE, step
from lab.release import find_release
from lab.runtimes import KATA_PODS, RUNC_PODS
from rich.table import Table

from bench.series import Series

_HANDLERS: Final = (RUNC_PODS.name, KATA_PODS.name)
_BYTES: Final = 100_000_000
_ROUND_TRIPS: Final = 500
_FILES: Final = 500
_ECHO_PORT, _SINK_PORT = 7, 9
_CHUNK: Final = bytes(1 << 18)
_TIMEOUT_S: Final = 120.0

# Figures of files by name: a script that has the folder as $d, and what a run of it moves in MB.
_SCRIPTS: Final = {
    "write": ("dd if=/dev/zero of=$d/big bs=1M count=64 conv=fsync 2>/dev/null", 67.1),
    "read": ("dd if=$d/big of=/dev/null bs=1M 2>/dev/null", 67.1),
    "metadata": (
        f"mkdir $d/m; for i in $(seq {_FILES}); do : > $d/m/$i; done; ls -l $d/m | wc; rm -r $d/m",
        0.0,
    ),
}


@dataclass(frozen=True, slots=True)
class _Standing:
    """A pod that stays for several measurements."""

    cri: Cri
    handler: str
    pod: RunningPod
    container: str

    @property
    def address(self) -> str:
        return self.cri.pod_ips(self.pod)[0]


def measure(release: str, runs: int) -> dict[str, Any]:
    """Start `runs` pods under each handler in turn, then measure one of each; print, return."""
    starts: dict[str, list[float]] = defaultdict(list)
    with (
        PrivateContainerd(find_release(release), cri=True) as daemon,
        Cri(daemon) as cri,
        tempfile.TemporaryDirectory() as volume,
    ):
        for image in (BUSYBOX, PAUSE):
            cri.load_image(image)
        try:
            for handler in _HANDLERS:  # the first makes a template
                _end(cri, _start(cri, handler, "warm", Container())[0])
            with step(f"{runs} pods of each handler") as progress:
                for number in range(runs):
                    for handler in _HANDLERS:
                        began = time.perf_counter()
                        pod, _ = _start(cri, handler, f"{handler}-{number}", Container())
                        starts[handler].append((time.perf_counter() - began) * 1000)
                        _end(cri, pod)
                    progress.advance_to(100 * (number + 1) / runs)
            inside = {handler: _inside(cri, handler, Path(volume)) for handler in _HANDLERS}
        finally:
            cri.remove_all_pods()
    return _report({name: Series(tuple(values)) for name, values in starts.items()}, inside)


def _start(cri: Cri, handler: str, name: str, container: Container) -> tuple[RunningPod, str]:
    pod = cri.run_pod(Pod(name=name), handler)
    return pod, cri.run(pod, container)


def _end(cri: Cri, pod: RunningPod) -> None:
    cri.stop_pod(pod)
    cri.remove_pod(pod)


def _inside(cri: Cri, handler: str, volume: Path) -> dict[str, float]:
    """Measure the network and the files of one pod; returns figures by name."""
    script = f"nc -ll -p {_ECHO_PORT} -e cat & exec nc -ll -p {_SINK_PORT} -e dd of=/dev/null"
    mounts = (Mount(volume, "/volume"),)
    container = Container(command=("sh", "-c", script), mounts=mounts)
    with step(f"network and files under {handler}"):
        pod, container_id = _start(cri, handler, f"{handler}-inside", container)
        standing = _Standing(cri, handler, pod, container_id)
        figures = {
            "round_trip_us": _round_trip(standing),
            "to_pod_mb_s": _best(lambda: _to_pod(standing)),
            "from_pod_mb_s": _best(lambda: _from_pod(standing)),
        }
        for place, folder in (("root", "/root"), ("volume", "/volume")):
            cri.sh(container_id, f"mkdir -p {folder}")
            for name, (work, moved) in _SCRIPTS.items():
                seconds = min(_seconds(standing, f"d={folder}; {work}") for _ in range(3))
                unit, value = ("mb_s", moved / seconds) if moved else ("ms", seconds * 1000)
                figures[f"{place}_{name}_{unit}"] = value
        _end(cri, pod)
    return {name: round(value, 1) for name, value in figures.items()}


def _best(one: Callable[[], float]) -> float:
    return max(one() for _ in range(3))


def _seconds(standing: _Standing, script: str) -> float:
    began = time.perf_counter()
    standing.cri.sh(standing.container, script, timeout_s=int(_TIMEOUT_S))
    return time.perf_counter() - began


def _connected(standing: _Standing, port: int) -> socket.socket:
    """Connect to a server of the pod, which may have just begun."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return socket.create_connection((standing.address, port), _TIMEOUT_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _round_trip(standing: _Standing) -> float:
    """Return the median time in microseconds for one byte to come back."""
    taken = []
    with _connected(standing, _ECHO_PORT) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            peer.sendall(b"x")
            peer.recv(1)
            taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2] * 1e6


def _to_pod(standing: _Standing) -> float:
    with _connected(standing, _SINK_PORT) as peer:
        began = time.perf_counter()
        for _ in range(_BYTES // len(_CHUNK)):
            peer.sendall(_CHUNK)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1)  # the end, once all has been read
        return _BYTES / 1e6 / (time.perf_counter() - began)


def _from_pod(standing: _Standing) -> float:
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(_TIMEOUT_S)
        network = standing.cri.daemon.network
        assert network is not None
        host, port = network.gateway, server.getsockname()[1]
        script = f"dd if=/dev/zero bs=256k count={_BYTES >> 18} 2>/dev/null | nc {host} {port}"
        sending = threading.Thread(target=_seconds, args=(standing, script))
        sending.start()
        arrived, began = 0, 0.0
        with server.accept()[0] as peer:
            while data := peer.recv(1 << 20):
                began = began or time.perf_counter()
                arrived += len(data)
        rate = arrived / 1e6 / (time.perf_counter() - began)
        sending.join()
        return rate


def _report(starts: dict[str, Series], inside: dict[str, dict[str, float]]) -> dict[str, Any]:
    runc, kata = _HANDLERS
    table = Table("figure", runc, kata, "kata / runc", title="pods")
    medians = {name: one.percentile(0.5) for name, one in starts.items()}
    rows = {"start_ms": medians} | {
        figure: {name: inside[name][figure] for name in _HANDLERS} for figure in inside[runc]
    }
    ratios = {}
    for figure, values in rows.items():
        ratios[figure] = round(values[kata] / values[runc], 3)
        table.add_row(figure, f"{values[runc]:.1f}", f"{values[kata]:.1f}", f"{ratios[figure]:g}")
    CONSOLE.print(table)
    return {
        **{name: one.summary() | inside[name] for name, one in starts.items()},
        "ratios": ratios,
    }
