"""Helper processes: how they end, and that they end with us."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata.host import child, proc

pytestmark = pytest.mark.linux

_SOURCE = str(Path(__file__).parents[3] / "src")


async def test_exit_code_and_output() -> None:
    read_end, write_end = os.pipe()
    process = child.spawn(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], output=write_end)
    os.close(write_end)
    waits = [asyncio.create_task(process.wait()) for _ in range(3)]
    assert await asyncio.gather(*waits) == [3, 3, 3]
    assert os.read(read_end, 100) == b"out\nerr\n"
    os.close(read_end)
    assert repr(process).endswith("exited with code 3>")


async def test_end_kills_what_does_not_end_by_itself() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    process = child.spawn(["/bin/sleep", "1000"], output=null)
    os.close(null)
    assert await process.end(0.05) == -signal.SIGKILL
    process.kill()
    assert child.describe_exit(-9) == "killed by SIGKILL"


async def test_a_missing_program_leaves_no_process() -> None:
    with pytest.raises(FileNotFoundError):
        child.spawn(["/no/such/program"], output=1)


def test_a_child_ends_with_us() -> None:
    code = """
import asyncio, os
from kata.host import child
async def main():
    process = child.spawn(["/bin/sleep", "1000"], output=1)
    print(process.pid, flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": _SOURCE},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    started = proc.start_time(pid)
    assert proc.is_running(pid, started)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not proc.is_running(pid, started):
            return
        time.sleep(0.005)
    pytest.fail(f"process {pid} outlived its parent")
