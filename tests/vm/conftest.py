"""Stages of a sandbox that is driven without containerd: a configuration, a root, a bundle."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from lab.bundle import Bundle, Configured, specification
from lab.paths import TEST_LOGS

_FAILED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test's teardown see whether the test failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    """The installed configuration, to be changed."""
    folder = tmp_path / "etc"
    folder.mkdir()
    return Configured(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root filesystem with busybox and nothing else."""
    root = tmp_path / "root"
    for name in ("bin", "proc", "dev", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox on this machine; install busybox-static")
    shutil.copy(busybox, root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    return root


@pytest.fixture
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bundle]:
    """A bundle; afterwards nothing of its sandbox is there."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    made = Bundle(folder)
    made.write(specification("/bin/sh", "-c", "sleep 1000"))
    yield made
    left = made.leftovers()
    if left or request.node.stash.get(_FAILED, False):
        logs = TEST_LOGS / request.node.name.replace("/", "_")
        made.keep_evidence(logs)
        print(f"kept in {logs}")
    made.close()
    assert not left
