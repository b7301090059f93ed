"""Stages of pods: one daemon per release for all of them, each handler on it, proof after each."""

from collections.abc import Iterator

import pytest
from lab import evidence
from lab.command import run
from lab.containerd import PrivateContainerd
from lab.cri import Cri, RunningPod
from lab.images import BUSYBOX, PAUSE
from lab.paths import TEST_LOGS
from lab.pod_trial import PodTrial
from lab.release import LINES, find_release
from lab.runtimes import KATA_SANDBOXER_PODS, POD_RUNTIMES, PodRuntime

_OF_THE_SANDBOX_API = (
    "test_pods.py",
    "test_outage.py",
    "test_pod_network.py",
    "test_port_forward.py",
)
"""What a pod without a pause container does differently; the rest of it is the same code."""

_ALSO = ("test_shared_memory", "test_kernel_parameters", "test_kernel_parameters_of_the_host")
"""Single tests of the other files that it runs, too."""

_WITHOUT_PAUSE = {
    "test_a_pod_in_the_hosts_network": "containerd 2.1 panics before it asks the shim",
}
"""Tests that do not hold for a pod without a pause container, each with the reason."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the handler with the Sandbox API, which 2.x has, would only repeat."""
    again = []
    for item in items:
        if f"-{KATA_SANDBOXER_PODS.name}" not in item.name:
            continue
        name = item.name.partition("[")[0]
        differs = item.path.name in _OF_THE_SANDBOX_API or name in _ALSO
        if not differs or "containerd-1.6" in item.name:
            again.append(item)
        elif reason := _WITHOUT_PAUSE.get(name):
            item.add_marker(pytest.mark.skip(reason=f"without a pause container: {reason}"))
    if again:
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item not in again]


@pytest.fixture(scope="package", autouse=True)
def shared_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have mounts below the tests' folder reach other namespaces, as systemd sees to on a node."""
    folder = tmp_path_factory.getbasetemp()
    run(["mount", "--bind", folder, folder])
    try:
        run(["mount", "--make-shared", folder])
        yield
    finally:
        run(["umount", "-l", folder])


@pytest.fixture(scope="package", params=list(LINES), ids=lambda line: f"containerd-{line}")
def cri(request: pytest.FixtureRequest, shared_mounts: None) -> Iterator[Cri]:
    """A private containerd's CRI with the images; its end proves that nothing is left."""
    with (
        PrivateContainerd(find_release(request.param), cri=True) as daemon,
        Cri(daemon) as client,
    ):
        for image in (BUSYBOX, PAUSE):
            client.load_image(image)
        yield client


@pytest.fixture(scope="package", params=POD_RUNTIMES, ids=lambda runtime: runtime.name)
def handler(request: pytest.FixtureRequest, cri: Cri) -> PodRuntime:
    """Each handler in turn: runc proves the test itself."""
    runtime: PodRuntime = request.param
    if reason := runtime.unavailable(cri.daemon.release.line):
        pytest.skip(reason)
    return runtime


@pytest.fixture(scope="module")
def shared(cri: Cri, handler: PodRuntime) -> Iterator[PodTrial]:
    """Pods that several tests of a module ask questions, and leave as they are."""
    with PodTrial(cri, handler) as trial:
        yield trial


@pytest.fixture(scope="module")
def shared_pod(shared: PodTrial) -> RunningPod:
    """A pod in which several tests of a module run containers of their own."""
    return shared.run_pod()


@pytest.fixture
def trial(request: pytest.FixtureRequest, cri: Cri, handler: PodRuntime) -> Iterator[PodTrial]:
    """Pods of one test; afterwards none is there, nor a trace of one."""
    failures = request.session.testsfailed
    try:
        with PodTrial(cri, handler) as trial:
            yield trial
            failed = request.session.testsfailed > failures
            if failed:
                _keep(request, cri)
    except BaseException:
        _keep(request, cri)
        raise


def _keep(request: pytest.FixtureRequest, cri: Cri) -> None:
    folder = TEST_LOGS / request.node.name
    kept = evidence.keep(folder, [cri.daemon.log_path])
    print(f"kept in {folder}: {', '.join(path.name for path in kept)}")
