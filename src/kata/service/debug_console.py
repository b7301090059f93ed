"""The debug console: the part of the agent's service that root on the host may use directly.

Served on the shim's own socket, and only for processes of the guest itself, which have no container
id: the agent's one connection is the shim's, whatever carries it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from signal import SIGKILL
from typing import Any

from kata.sandbox.sandbox import Sandbox
from kata.service.status import answered
from kata_api import agent_service as service
from kata_api.agent import agent_pb2 as pb
from ttrpc import Method, RpcError, StatusCode
from ttrpc.binding import BoundMethod

_FORWARDED: tuple[Method[Any, Any], ...] = (
    service.EXEC_PROCESS,
    service.SIGNAL_PROCESS,
    service.WRITE_STDIN,
    service.READ_STDOUT,
    service.READ_STDERR,
    service.CLOSE_STDIN,
    service.TTY_WIN_RESIZE,
)

_KILL_TIMEOUT = 2.0
"""Seconds to kill what nobody waits for any more."""


def methods(sandbox: Callable[[], Sandbox]) -> dict[str, BoundMethod]:
    """Return the methods by path; `sandbox` returns the sandbox, or raises what is told instead."""
    bound = [BoundMethod(method, partial(_forward, sandbox, method)) for method in _FORWARDED]
    wait = partial(_wait, sandbox)
    bound.append(BoundMethod(service.WAIT_PROCESS, wait, ends_with_caller=True))
    return {each.method.path: each for each in bound}


async def _forward(
    sandbox: Callable[[], Sandbox], method: Method[Any, Any], request: Any, _context: object
) -> Any:
    with answered():
        if request.container_id:
            raise RpcError(
                StatusCode.PERMISSION_DENIED,
                "the debug console is of the guest itself; use containerd for its containers",
            )
        return await sandbox().debug_agent().forward(method, request)


async def _wait(
    sandbox: Callable[[], Sandbox], request: pb.WaitProcessRequest, context: object
) -> pb.WaitProcessResponse:
    """Wait for a process; it lives no longer than whoever waits for it is connected."""
    try:
        answer: pb.WaitProcessResponse = await _forward(
            sandbox, service.WAIT_PROCESS, request, context
        )
        return answer
    except asyncio.CancelledError:
        with suppress(Exception):
            agent = sandbox().debug_agent()
            await agent.signal_process("", request.exec_id, SIGKILL, timeout=_KILL_TIMEOUT)
        raise
