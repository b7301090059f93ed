"""kata-ctl against a sandbox: what it says while that runs, what it can do in it, what it keeps."""

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.bundle import Bundle, Configured, wait_gone
from lab.paths import CHECKOUT, GUEST_KERNEL

from kata_api import task
from kata_api.containerd import task_pb2 as pb

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src"), "TERM": "xterm"}


def argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "kata.cli.ctl", *words]


def run(*words: str, stdin: bytes = b"", status: int = 0) -> bytes:
    done = subprocess.run(
        argv(*words),
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout or done.stderr


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


@pytest.fixture
def logs(configured: Configured, tmp_path: Path) -> Path:
    """A directory of the test's own for kept logs; returns it."""
    folder = tmp_path / "logs"
    lines = [
        "[agent.kata]",
        "debug_console_enabled = true",
        "[factory]",
        "enable_template = false",
        "[runtime]",
        f'sandbox_logs_path = "{folder}"',
    ]
    drop_in = configured.path.parent / "config.d" / "60-logs.toml"
    drop_in.write_text("\n".join(lines) + "\n")
    return folder


class Terminal:
    """A command of ours on a terminal of its own."""

    def __init__(self, *words: str, rows: int, columns: int) -> None:
        self.master, slave = pty.openpty()
        self._slave = slave
        self.size(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            argv(*words), env=ENVIRONMENT, stdin=slave, stdout=slave, stderr=slave
        )

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, wanted: str, timeout: float = 60) -> str:
        """Read until `wanted` has been shown; return what was."""
        shown, deadline = "", time.monotonic() + timeout
        while wanted not in shown:
            left = deadline - time.monotonic()
            assert left > 0, shown
            if select.select([self.master], [], [], left)[0]:
                shown += os.read(self.master, 4096).decode(errors="replace")
        return shown

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._slave) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)


@pytest.fixture
def guest_shell(bundle: Bundle) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


async def test_a_sandbox_in_its_life_and_after(
    bundle: Bundle,
    configured: Configured,
    root: Path,
    logs: Path,
    guest_shell: list[Terminal],
) -> None:
    config = ("--config", str(configured.path))
    async with await bundle.connect() as client:
        vmm = await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        # In a thread, as the log FIFO and the shim's answers are read by this process.
        await asyncio.to_thread(_look, bundle, vmm)
        await asyncio.to_thread(_enter, bundle, guest_shell)
        following = await asyncio.create_subprocess_exec(
            *argv("logs", bundle.id, "--follow"), env=ENVIRONMENT, stdout=subprocess.PIPE
        )
        assert following.stdout
        first = await asyncio.wait_for(following.stdout.readline(), 30)
        kill = pb.KillRequest(id=bundle.id, signal=signal.SIGKILL, all=True)
        await client.call(task.v2.KILL, kill)
        await client.call(task.v2.WAIT, pb.WaitRequest(id=bundle.id))
        await client.call(task.v2.DELETE, pb.DeleteRequest(id=bundle.id))
        await bundle.shut_down(client)
    followed, _ = await asyncio.wait_for(following.communicate(), 30)
    assert b"kata-agent" in first + followed
    assert bundle.id not in run("list", "-q").decode()
    kept = run("logs", bundle.id, *config)
    assert kept
    assert b"kata-agent" in kept
    assert any(each["id"] == bundle.id for each in told("logs", *config))
    record = told("start-ledger", bundle.id, *config)
    assert {"guest boot", "create container"} <= {step["name"] for step in record["steps"]}
    (directory,) = logs.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert b"is called" in run("show", bundle.id, status=1)


def _look(bundle: Bundle, vmm: int) -> None:
    (listed,) = [each for each in told("list") if each["id"] == bundle.id]
    assert listed == told("show", bundle.id[:-1]) | {
        # What goes on growing.
        name: listed[name]
        for name in ("processes", "age_seconds")
    }
    assert (listed["state"], listed["namespace"]) == ("running", "test")
    assert (listed["vmm_pid"], listed["shim_pid"]) == (vmm, bundle.shim_pid)
    assert listed["containers"] == [bundle.id]
    used = {each["name"]: each["usage"] for each in listed["processes"]}
    assert used.keys() == {"qemu", "virtiofsd", "shim"}
    assert used["qemu"]["rss_kib"] >= used["qemu"]["pss_kib"] > 10_000
    assert used["qemu"]["cpu_seconds"] > 0
    assert 0 < listed["age_seconds"] < 300
    assert bundle.id.encode() in run("list")
    assert b"kata-agent" in run("logs", bundle.id)
    values = told("config", "--sandbox", bundle.id)["values"]
    assert values["agent.kata.debug_console_enabled"]["origin"]["kind"] == "drop-in"
    record = told("start-ledger", bundle.id)
    assert record["sandbox_id"] == bundle.id
    assert record["total_ms"] >= sum(s["took_ms"] for s in record["steps"] if "guest" in s["name"])
    # The same from the shim's log, as containerd writes it.
    (line,) = [line for line in bundle.log().splitlines() if "start ledger" in line]
    assert json.loads(run("start-ledger", "-", "--json", stdin=line.encode())) == record
    assert b"\xe2\x96\x88" in run("start-ledger", bundle.id)


def _enter(bundle: Bundle, shells: list[Terminal]) -> None:
    # Streams and status of a program without a terminal.
    assert run("exec", bundle.id, "uname", "-s") == b"Linux\n"
    assert run("exec", bundle.id, "--", "sh", "-c", "cat; exit 7", stdin=b"x" * 200_000, status=7)
    assert run("exec", bundle.id, "cat", stdin=b"x" * 200_000) == b"x" * 200_000
    ids = run("exec", bundle.id, "sh", "-c", "grep CapEff /proc/self/status; cat /proc/1/comm")
    assert b"000001ffffffffff" in ids
    assert b"not found" in run("exec", bundle.id, "no-such-program", status=127)
    # A terminal, its size, and its size again.
    shell = Terminal("exec", bundle.id, rows=37, columns=91)
    shells.append(shell)
    shell.expect("# ")
    shell.type("stty size\n")
    shell.expect("37 91")
    shell.size(50, 100)
    shell.process.send_signal(signal.SIGWINCH)
    # What is typed is echoed: arithmetic tells the echo and the output apart.
    shell.type("until [ \"$(stty size)\" = '50 100' ]; do sleep 0.1; done; echo size-$((6*7))\n")
    shell.expect("size-42")
    assert not shell.is_as_before()
    shell.type("exit 3\n")
    assert shell.process.wait(30) == 3
    assert shell.is_as_before()
    # What nobody waits for any more is killed, even when this end had no time to say so.
    left = subprocess.Popen(
        argv("exec", bundle.id, "sleep", "4321"), env=ENVIRONMENT, stdin=subprocess.DEVNULL
    )
    listing = ("exec", bundle.id, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    _until(lambda: b"sleep 4321" in run(*listing))
    left.kill()
    left.wait()
    _until(lambda: b"sleep 4321" not in run(*listing))
    # The way out of a guest that hangs.
    shell = Terminal("exec", bundle.id, rows=24, columns=80)
    shells.append(shell)
    shell.expect("# ")
    shell.type("\x1d")
    assert shell.process.wait(30) == 130
    assert shell.is_as_before()


def _until(condition: Any, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


async def test_a_killed_shims_logs_are_kept_and_a_closed_console_says_how_to_open_it(
    bundle: Bundle, configured: Configured, root: Path, logs: Path
) -> None:
    drop_in = configured.path.parent / "config.d" / "70-console.toml"
    drop_in.write_text("[agent.kata]\ndebug_console_enabled = false\n")
    config = ("--config", str(configured.path))
    async with await bundle.connect() as client:
        await bundle.create(client, configured.path, root)
        await client.call(task.v2.START, pb.StartRequest(id=bundle.id))
        refusal = await asyncio.to_thread(run, "exec", bundle.id, "true", status=1)
        assert b"debug_console_enabled = true in [agent.kata]" in refusal
        pid = bundle.shim_pid
        os.kill(pid, signal.SIGKILL)
        await wait_gone(pid)
    (dead,) = [each for each in told("list") if each["id"] == bundle.id]
    assert (dead["state"], dead["shim_pid"]) == ("dead", None)
    bundle.run("-bundle", str(bundle.path), "delete")
    assert b"kata-agent" in run("logs", bundle.id, *config)
    assert told("start-ledger", bundle.id, *config)["sandbox_id"] == bundle.id
