"""Clones of one template, one after another: `python -m lab.clones CONFIGURATION NAME COUNT`.

Each is brought up the way the shim does it, and a program in its guest writes one line of JSON: all
that two guests must never have in common. Without containerd, shim and container between them, a
hundred take seconds.
"""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from typing import Final

from kata.agent_client.agent import Agent
from kata.config import Configuration, load
from kata.host import mounts
from kata.sandbox.bring_up import BringUp
from kata.sandbox.journal import Journal
from kata.sandbox.ledger import Ledger, now
from kata.sandbox.pod import Pod
from kata.sandbox.sizing import Sizing
from kata_api import oci

PORTS: Final = range(40001, 40005)
# The sequence number that a connection starts with is a secret hash of its four numbers plus a clock
# of 64 ns; only the hash is told. TCP_REPAIR (19 to 21 in linux/tcp.h) lets its owner see the number.
_PROBE: Final = f"""
import os, socket, time
words = [os.urandom(16).hex(), os.uname().nodename]
for name in ("uuid", "boot_id"):
    with open("/proc/sys/kernel/random/" + name) as file:
        words.append(file.read().strip())
listener = socket.socket()
listener.bind(("127.0.0.1", 40000))
listener.listen()
for port in range({PORTS.start}, {PORTS.stop}):
    client = socket.socket()
    client.bind(("127.0.0.1", port))
    clock = time.time_ns() >> 6
    client.connect(("127.0.0.1", 40000))
    for option, value in ((19, 1), (20, 2)):
        client.setsockopt(socket.IPPROTO_TCP, option, value)
    first = client.getsockopt(socket.IPPROTO_TCP, 21) - 1
    words.append(str((first - clock) % 2**32))
print(*words, flush=True)
"""
_NAME: Final = "probe"


async def _tell(agent: Agent) -> str:
    process = oci.Process(args=("/usr/bin/python3", "-ISB", "-c", _PROBE), cwd="/")
    await agent.exec_process("", _NAME, process)
    said = b""
    while part := await agent.read_stdout("", _NAME, 4096):
        said += part
    if (status := (await agent.wait_process("", _NAME)).status) != 0:
        error = await agent.read_stderr("", _NAME, 4096)
        raise RuntimeError(f"the probe ended with {status}: {error.decode()}")
    return said.decode()


async def _clone(configuration: Configuration, name: str) -> None:
    ledger = Ledger(name, now())
    async with AsyncExitStack() as undo:
        pod = Pod(name, name, "")
        sizing = Sizing(configuration, pod.demand)
        bring_up = BringUp(pod, Journal(name), configuration, ledger, undo, sizing)
        guest = await bring_up.run()
        if not any(step.name == "guest answer" for step in ledger.steps):
            raise RuntimeError(f"{name} booted; it was not restored")
        sys.stdout.write(await _tell(guest.agent))
        sys.stdout.flush()


async def _main(path: str, name: str, count: int) -> None:
    configuration = load(path)
    for number in range(count):
        await _clone(configuration, f"{name}-{number}")


if __name__ == "__main__":
    mounts.isolate()
    os.chdir("/")
    asyncio.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
