"""Stages of a real containerd: one daemon per release, every runtime on it, proof after each test."""

from collections.abc import Generator, Iterator
from typing import Final

import pytest
from lab import evidence, standbys
from lab.containerd import PrivateContainerd
from lab.images import BUSYBOX, DEBIAN
from lab.leftovers import LeftoverError
from lab.paths import TEST_LOGS
from lab.release import LINES, find_release
from lab.runtimes import RUNTIMES, Runtime
from lab.trial import Trial

_FAILED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test's teardown see whether the test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session", autouse=standbys.WANTED)
def pool() -> Iterator[None]:
    """Guests that stand by for every sandbox, if they are asked for."""
    with standbys.pool():
        yield


@pytest.fixture(scope="package", params=list(LINES), ids=lambda line: f"containerd-{line}")
def daemon(request: pytest.FixtureRequest) -> Iterator[PrivateContainerd]:
    """A private containerd with the images imported; its end proves that nothing is left."""
    with PrivateContainerd(find_release(request.param)) as daemon:
        for image in (BUSYBOX, DEBIAN):
            daemon.ctr("image", "import", image.archive())
        yield daemon


@pytest.fixture(params=RUNTIMES, ids=lambda runtime: runtime.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime in turn: runc proves the test itself."""
    runtime: Runtime = request.param
    if reason := runtime.unavailable():
        pytest.skip(reason)
    return runtime


@pytest.fixture
def trial(
    request: pytest.FixtureRequest, daemon: PrivateContainerd, runtime: Runtime
) -> Iterator[Trial]:
    """Containers of one runtime on one daemon; afterwards none is there, nor a trace of one."""
    yield Trial(daemon, runtime)
    failed = request.node.stash.get(_FAILED, False)
    try:
        daemon.prove_idle()
    except LeftoverError:
        failed = True
        raise
    finally:
        if failed:
            folder = TEST_LOGS / request.node.name
            kept = evidence.keep(folder, [daemon.log_path])
            print(f"kept in {folder}: {', '.join(path.name for path in kept)}")
