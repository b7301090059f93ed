"""Programs of the node that take a process's output; the agent here is two lists of chunks."""

import asyncio
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kata.agent_client import logger
from kata.agent_client.stdio import Stdio, StdioError, Streams
from kata.agent_client.uri import StreamUri
from kata.host import proc
from kata.host.child import Child

pytestmark = pytest.mark.linux


class TwoOutputs:
    """Answers reads of either output from a list of chunks."""

    def __init__(self, stdout: list[bytes], stderr: list[bytes]) -> None:
        self._stdout, self._stderr = [*stdout, b""], [*stderr, b""]

    async def read_stdout(self, _container: str, _exec: str, _size: int) -> bytes:
        return self._stdout.pop(0)

    async def read_stderr(self, _container: str, _exec: str, _size: int) -> bytes:
        return self._stderr.pop(0)


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


def _streams(agent: Any, uri: str, *, stderr: str = "") -> Streams:
    return Streams(agent, "c1", "e1", Stdio(stdout=uri, stderr=stderr or uri, namespace="ns"))


async def _run(agent: Any, uri: str) -> None:
    streams = _streams(agent, uri)
    await streams.ready()
    streams.start()
    await streams.drained(10)
    await streams.close()


async def test_a_logger_gets_both_outputs_and_its_arguments(tmp_path: Path) -> None:
    program = _script(
        tmp_path / "logger",
        f"""cd {tmp_path}
        printf '%s\\n' "$@" > arguments
        tr '\\0' '\\n' < /proc/$$/environ > environment
        ls -l /proc/$$/fd > descriptors
        echo one >> starts
        exec 6>&5 5>&-
        printf x >&6
        cat <&3 > out &
        cat <&4 > err
        wait
        """,
    )
    before = os.listdir("/proc/self/fd")
    said = [os.urandom(200_000) for _ in range(20)]
    uri = f"binary://{program}?id=c%201&empty&id=again&level=info"
    await asyncio.wait_for(_run(TwoOutputs(said, [b"wrong"]), uri), 20)
    assert (tmp_path / "out").read_bytes() == b"".join(said)
    assert (tmp_path / "err").read_bytes() == b"wrong"
    words = (tmp_path / "arguments").read_text().splitlines()
    assert words == ["id", "c 1", "empty", "", "level", "info"]
    environment = (tmp_path / "environment").read_text().split()
    assert sorted(environment) == ["CONTAINER_ID=e1", "CONTAINER_NAMESPACE=ns"]
    listing = (tmp_path / "descriptors").read_text().splitlines()
    assert {line.split()[-3] for line in listing if "pipe:[" in line} == {"3", "4", "5"}
    assert (tmp_path / "starts").read_text() == "one\n"
    assert os.listdir("/proc/self/fd") == before


async def test_a_logger_s_descriptors_are_right_wherever_ours_lie(tmp_path: Path) -> None:
    program = _script(tmp_path / "logger", f"echo x >&5; cat <&4 <&3 > {tmp_path}/out")
    script = f"""
import asyncio, os, sys
sys.path[:0] = {sys.path!r}
from kata.agent_client.logger import Logger
from kata.agent_client.uri import StreamUri

async def main(free):
    for descriptor in free:
        os.close(descriptor)
    logger = Logger.start(StreamUri.parse("binary://{program}", "binary"), "c", "n")
    await logger.ready()
    sink = logger.sink("stdout")
    await sink.write(b"%d" % len(free))
    sink.close()
    await logger.end()

for free in ((), (3,), (4,), (5,), (4, 5), (3, 4, 5)):
    os.closerange(3, 10)
    for _ in range(3):
        os.open("/dev/null", os.O_RDONLY)
    asyncio.run(main(free))
    assert open("{tmp_path}/out").read() == str(len(free)), free
"""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await asyncio.wait_for(child.wait(), 20) == 0


async def test_a_logger_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Permission denied")):
        with pytest.raises(StdioError, match=f"binary://{path}.*{reason}"):
            _streams(TwoOutputs([], []), f"binary://{path}")
    ended = f"binary://{_script(tmp_path / 'logger', 'sleep 1000')}"
    with pytest.raises(StdioError, match="/no/such/file"):
        _streams(TwoOutputs([], []), ended, stderr="/no/such/file")
    async with asyncio.timeout(20):
        while os.listdir("/proc/self/fd") != before:  # noqa: ASYNC110 - the killed one is reaped
            await asyncio.sleep(0.01)


async def test_a_logger_that_is_never_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "_READY_TIMEOUT", 0.1)
    monkeypatch.setattr(logger, "_GRACE", 0.1)
    program = _script(tmp_path / "logger", "exec sleep 1000")
    streams = _streams(TwoOutputs([], []), f"binary://{program}")
    with pytest.raises(StdioError, match=r"not ready within 0.1 s.*descriptor 5"):
        await streams.ready()
    await asyncio.wait_for(streams.close(), 20)


@pytest.mark.parametrize("spare", range(9))
def test_nothing_stays_open_when_descriptors_run_out(tmp_path: Path, spare: int) -> None:
    uri = StreamUri.parse(f"binary://{_script(tmp_path / 'logger', 'exit')}", "binary")
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # So many that there is no gap below the limit.
    filled = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(map(int, before)) + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filled) + 1 + spare, hard))
    try:
        with pytest.raises(StdioError, match=r"cannot start the logger .*: Too many open files"):
            logger.Logger.start(uri, "c1", "ns")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled:
            os.close(descriptor)
    assert os.listdir("/proc/self/fd") == before


async def test_a_logger_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger, "_GRACE", 0.1)
    end = Child.end

    async def end_once_asked(child: Child, _grace: float) -> int:
        async with asyncio.timeout(60):
            while not asked.exists() or not asked.read_text():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        return await end(child, 0.1)

    asked = tmp_path / "asked"
    monkeypatch.setattr(Child, "end", end_once_asked)
    caplog.set_level(logging.WARNING)
    text = f"trap 'echo asked >> {asked}' TERM\necho >&5\nwhile :; do sleep 0.1; done"
    await _run(TwoOutputs([b"x"], []), f"binary://{_script(tmp_path / 'logger', text)}")
    assert asked.read_text() == "asked\n"
    assert "killed by SIGKILL" in caplog.text


async def test_a_logger_that_dies_does_not_stop_the_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = _script(tmp_path / "logger", "exit 3")
    agent = TwoOutputs([bytes(100_000)] * 50, [])
    await asyncio.wait_for(_run(agent, f"binary://{program}"), 30)
    assert "output is lost, stdout of e1: [Errno 32] Broken pipe" in caplog.text
    assert f"the logger {program} exited with code 3" in caplog.text


async def test_a_logger_dies_with_a_killed_shim(tmp_path: Path) -> None:
    program = _script(tmp_path / "logger", f"echo $$ > {tmp_path}/pid; exec 5>&-; exec sleep 1000")
    script = f"""
import asyncio, os, signal, sys
sys.path[:0] = {sys.path!r}
from kata.agent_client.logger import Logger
from kata.agent_client.uri import StreamUri

async def main():
    logger = Logger.start(StreamUri.parse("binary://{program}", "binary"), "c", "n")
    await logger.ready()
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    shim = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await asyncio.wait_for(shim.wait(), 20) == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    async with asyncio.timeout(10):
        while _is_running(pid):  # noqa: ASYNC110 - no child of ours, so nobody tells
            await asyncio.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        return proc.is_running(pid, proc.start_time(pid))
    except ProcessLookupError:
        return False
