"""Processes from their birth to their exit status, and their streams."""

# A look at a file of this host blocks nobody here.
# ruff: noqa: ASYNC230

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from containers import Guest, make_process, make_spec, open_descriptors

from kata_api import agent_service as api
from kata_api.agent import agent_pb2 as pb
from kata_api.agent.agent_pb2 import ReadStreamRequest
from kata_api.agent.oci_pb2 import Box
from kata_api.agent_service import READ_STDOUT
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.linux


async def test_output_and_success(guest: Guest) -> None:
    assert await guest.run("echo", "hello") == (0, "hello\n", "")


@pytest.mark.parametrize("code", [0, 1, 7, 126, 255])
async def test_exit_code(guest: Guest, code: int) -> None:
    assert await guest.run("sh", "-c", f"echo out; echo err >&2; exit {code}") == (
        code,
        "out\n",
        "err\n",
    )


async def test_nothing_runs_before_start(guest: Guest) -> None:
    root = guest.new_rootfs()
    name = await guest.create(make_spec(root, make_process("touch", "/ran")))
    await asyncio.sleep(0.1)
    assert not os.path.exists(root + "/ran")
    await guest.start(name)
    assert await guest.wait(name) == 0
    assert os.path.exists(root + "/ran")


async def test_start_twice_is_refused(guest: Guest) -> None:
    name = await guest.sleeper()
    with pytest.raises(RpcError, match="started before") as caught:
        await guest.start(name)
    assert caught.value.code == StatusCode.FAILED_PRECONDITION


async def test_any_number_of_waiters_also_after_the_end(guest: Guest) -> None:
    name = await guest.sleeper()
    waiters = [asyncio.create_task(guest.wait(name)) for _ in range(5)]
    await asyncio.sleep(0.05)
    await guest.signal(name, signal.SIGKILL)
    assert await asyncio.gather(*waiters) == [137] * 5
    assert await guest.wait(name, exec_id=name) == 137


async def test_output_survives_the_end_of_its_process(guest: Guest) -> None:
    name = await guest.launch("sh", "-c", "head -c 300000 /dev/zero; echo bye >&2")
    assert await guest.wait(name) == 0
    assert await guest.read_all(name) == bytes(300000)
    assert await guest.read_all(name, stderr=True) == b"bye\n"


async def test_twenty_megabytes_arrive_unchanged(guest: Guest) -> None:
    size = 20 << 20
    name = await guest.sleeper()
    command = f"head -c {size} /dev/urandom > /blob; sha256sum /blob >&2; cat /blob"
    await guest.execute(name, "big", make_process("sh", "-c", command))
    data = await guest.read_all(name, "big")
    digest = (await guest.read_all(name, "big", stderr=True)).split()[0].decode()
    assert len(data) == size
    assert hashlib.sha256(data).hexdigest() == digest


async def test_stdin_with_backpressure_and_end(guest: Guest) -> None:
    name = await guest.launch("sha256sum", "-")
    data = os.urandom(5 << 20)
    for offset in range(0, len(data), 1 << 20):
        await guest.write(name, data[offset : offset + (1 << 20)])
    await guest.close_stdin(name)
    code, out, _ = await guest.collect(name)
    assert (code, out.split()[0]) == (0, hashlib.sha256(data).hexdigest())


async def test_empty_write_ends_stdin(guest: Guest) -> None:
    name = await guest.launch("cat")
    await guest.write(name, b"last words")
    await guest.write(name, b"")
    assert await guest.collect(name) == (0, "last words", "")


async def test_write_waits_for_a_reader_and_fails_without_one(guest: Guest) -> None:
    name = await guest.sleeper()
    write = asyncio.create_task(guest.write(name, bytes(3 << 20)))
    await asyncio.sleep(0.1)
    assert not write.done()
    await guest.signal(name, signal.SIGKILL)
    with pytest.raises(RpcError, match="standard input"):
        await write


async def test_signal_reaches_a_handler(guest: Guest) -> None:
    name = await guest.launch(
        "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done"
    )
    assert await guest.read_some(name) == b"up\n"
    await guest.signal(name, signal.SIGTERM)
    assert await guest.wait(name) == 5


async def test_unhandled_sigterm_kills_the_init(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.signal(name, signal.SIGTERM, exec_id=name)
    assert await guest.wait(name) == 128 + signal.SIGKILL


async def test_signals_of_execs(guest: Guest) -> None:
    name = await guest.sleeper()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1):
        exec_id = f"e{number}"
        await guest.execute(name, exec_id, make_process("sleep", "100"))
        await guest.signal(name, number, exec_id)
        assert await guest.wait(name, exec_id) == 128 + number


async def test_sigkill_without_exec_id_takes_everyone(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.execute(name, "e", make_process("sleep", "100"))
    await guest.signal(name, signal.SIGKILL)
    assert await guest.wait(name, "e") == 137
    assert await guest.wait(name) == 137
    await guest.signal(name, signal.SIGKILL)  # of an ended container: success
    await guest.signal(name, signal.SIGTERM)


async def test_a_signal_without_exec_id_reaches_each_process(guest: Guest) -> None:
    trap = "trap 'exit 3' USR1; echo up; while :; do sleep 0.02; done"
    name = await guest.launch("sh", "-c", trap)
    await guest.execute(name, "e", make_process("sh", "-c", trap))
    await guest.execute(name, "other", make_process("sh", "-c", trap))
    for exec_id in ("", "e", "other"):
        assert await guest.read_some(name, exec_id) == b"up\n"
    await guest.signal(name, signal.SIGUSR1, "other")
    assert await guest.wait(name, "other") == 3
    await guest.signal(name, signal.SIGUSR1)
    assert await guest.wait(name, "e") in (3, 137)  # whoever is first takes the other along
    assert await guest.wait(name) == 3


async def test_processes_are_listed_with_the_ids_of_execs(guest: Guest) -> None:
    script = 'sleep 500 & until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done; echo up; wait'
    name = await guest.launch("sh", "-c", script)
    await guest.read_some(name)
    await guest.execute(name, "e", make_process("sleep", "100"))
    request = pb.ListProcessesRequest(container_id=name, format="json")
    listed = await guest.client.call(api.LIST_PROCESSES, request)
    pids = json.loads(listed.process_list)
    programs = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in pids}
    assert sorted(words[1] for words in programs.values()) == [b"-c", b"100", b"500"]
    assert {exec_id: programs[pid][1] for exec_id, pid in listed.execs.items()} == {"e": b"100"}
    request.format = "table"
    with pytest.raises(RpcError) as error:
        await guest.client.call(api.LIST_PROCESSES, request)
    assert error.value.code == StatusCode.INVALID_ARGUMENT


async def test_orphans_of_an_exec_end_with_the_container(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.execute(name, "e", make_process("sh", "-c", "sleep 500 & echo started"))
    assert await guest.read_some(name, "e") == b"started\n"
    assert await guest.wait(name, "e") == 0
    await guest.remove(name)


async def test_exec_shares_the_container(guest: Guest) -> None:
    name = await guest.launch("sh", "-c", "echo mine > /tmp/file; exec sleep 1000")
    until_sleep = 'until [ "$(cat /proc/1/comm)" = sleep ]; do :; done'
    await guest.execute(
        name,
        "e",
        make_process("sh", "-c", f"{until_sleep}; cat /tmp/file /proc/1/cmdline; echo $$"),
    )
    code, out, err = await guest.collect(name, "e")
    assert (code, err) == (0, "")
    assert out.startswith("mine\nsleep\x001000\x00")
    assert int(out.split("\x00")[-1]) > 1


async def test_spent_exec_is_forgotten_and_its_id_free_again(guest: Guest) -> None:
    name = await guest.sleeper()
    for _ in range(2):
        await guest.execute(name, "e", make_process("echo", "x"))
        assert await guest.collect(name, "e") == (0, "x\n", "")
    with pytest.raises(RpcError) as caught:
        await guest.wait(name, "e")
    assert caught.value.code == StatusCode.NOT_FOUND


async def test_exec_id_in_use(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.execute(name, "e", make_process("sleep", "100"))
    for taken in ("e", name):
        with pytest.raises(RpcError) as caught:
            await guest.execute(name, taken, make_process("true"))
        assert caught.value.code == StatusCode.ALREADY_EXISTS


async def test_a_thousand_execs_leave_no_descriptor(guest: Guest) -> None:
    name = await guest.sleeper()
    before = open_descriptors()
    for number in range(1000):
        await guest.execute(name, f"e{number}", make_process("echo", str(number)))
        if number % 2:  # one half is read, the other is only waited for
            assert await guest.collect(name, f"e{number}") == (0, f"{number}\n", "")
        else:
            assert await guest.wait(name, f"e{number}") == 0
    assert open_descriptors() == before


async def test_no_descriptor_of_the_agent_reaches_a_program(guest: Guest) -> None:
    name = await guest.sleeper()
    listing = make_process("sh", "-c", "ls /proc/self/fd")
    await guest.execute(name, "e", listing)
    _, out, _ = await guest.collect(name, "e")
    assert out.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    assert (await guest.run("ls", "/proc/self/fd"))[1].split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc"], 'exec: "/etc": is a directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_missing_program_is_reported_early(
    guest: Guest, args: list[str], message: str
) -> None:
    with pytest.raises(RpcError) as caught:
        await guest.create(make_spec(guest.new_rootfs(), make_process(*args)))
    assert (caught.value.code, caught.value.message) == (StatusCode.INTERNAL, message)
    name = await guest.sleeper()
    with pytest.raises(RpcError) as caught:
        await guest.execute(name, "e", make_process(*args))
    assert (caught.value.code, caught.value.message) == (StatusCode.INTERNAL, message)


async def test_execve_failure_is_start_s_error(guest: Guest) -> None:
    root = guest.new_rootfs()
    with open(root + "/garbage", "wb") as file:
        file.write(b"\x7fELF garbage")
    os.chmod(root + "/garbage", 0o755)
    name = await guest.create(make_spec(root, make_process("/garbage")))
    with pytest.raises(RpcError, match="exec /garbage: exec format error") as caught:
        await guest.start(name)
    assert caught.value.code == StatusCode.INTERNAL


@pytest.mark.parametrize("exec_id", ["", "e"])
async def test_unknown_names(guest: Guest, exec_id: str) -> None:
    with pytest.raises(RpcError) as caught:
        await guest.wait("nobody", exec_id)
    assert caught.value.code == StatusCode.INVALID_ARGUMENT
    name = await guest.sleeper()
    with pytest.raises(RpcError) as caught:
        await guest.wait(name, "ghost")
    assert caught.value.code == StatusCode.NOT_FOUND


async def test_terminal(guest: Guest) -> None:
    process = make_process(
        "sh",
        "-c",
        "tty; stty size; read line; stty size; echo got $line; test -c /dev/console && exit 3",
        Terminal=True,
        ConsoleSize=Box(Height=24, Width=80),
    )
    name = await guest.create(make_spec(guest.new_rootfs(), process))
    await guest.resize(name, 40, 100)
    await guest.start(name)
    out = b""
    while not out.endswith(b"40 100\r\n"):
        out += await guest.read_some(name)
    assert out == b"/dev/pts/0\r\n40 100\r\n"
    await guest.resize(name, 50, 132)
    await guest.write(name, b"word\n")
    assert await guest.read_all(name) == b"word\r\n50 132\r\ngot word\r\n"
    assert await guest.read_all(name, stderr=True) == b""
    assert await guest.wait(name) == 3


async def test_terminal_of_an_exec_is_its_session_s(guest: Guest) -> None:
    name = await guest.sleeper()
    await guest.execute(name, "e", make_process("sh", "-c", "read x", Terminal=True))
    await asyncio.sleep(0.1)
    await guest.write(name, b"\x03", "e")  # the terminal turns it into SIGINT
    assert await guest.wait(name, "e") == 130


async def test_resize_without_terminal(guest: Guest) -> None:
    name = await guest.sleeper()
    with pytest.raises(RpcError, match="terminal=true") as caught:
        await guest.resize(name, 1, 1)
    assert caught.value.code == StatusCode.UNAVAILABLE


async def test_reads_that_are_given_up_lose_nothing(guest: Guest) -> None:
    name = await guest.launch("cat")
    request = ReadStreamRequest(container_id=name, len=10)
    for _ in range(3):
        with pytest.raises(RpcError):
            await guest.client.call(READ_STDOUT, request, timeout=0.02)
    await guest.write(name, b"still here")
    await guest.close_stdin(name)
    assert await guest.read_all(name) == b"still here"
