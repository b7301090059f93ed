"""OCI hooks that run on the host: `prestart`, `createRuntime`, `poststart` and `poststop`.

Those of the guest, `createContainer` and `startContainer`, are the agent's.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Sequence

from kata.host.child import describe_exit, spawn
from kata.sandbox.container import ContainerRequest
from kata.sandbox.errors import HookError
from kata_api import oci

_MOST_OUTPUT = 4096
"""Bytes of the end of a hook's output that its error carries."""

_log = logging.getLogger(__name__)


async def before_start(request: ContainerRequest, pid: int) -> bool:
    """Run the hooks of a container that is being created, and tell whether there were any.

    Raises `HookError` at the first failure. `pid` stands for the container's process on the host: it is the monitor's.
    """
    if hooks := request.spec.hooks:
        state = _state(request, "creating", pid)
        for name, wanted in (("prestart", hooks.prestart), ("createRuntime", hooks.create_runtime)):
            for number, hook in enumerate(wanted):
                await _run(f"{name} hook {number}", hook, state, request.bundle)
        return bool(hooks.prestart or hooks.create_runtime)
    return False


async def after_start(request: ContainerRequest, pid: int) -> None:
    """Run the hooks of a container that runs; one that fails is logged."""
    if hooks := request.spec.hooks:
        state = _state(request, "running", pid)
        await _run_all("poststart", hooks.poststart, state, request)


async def after_stop(request: ContainerRequest) -> None:
    """Run the hooks of a container that has been removed; one that fails is logged."""
    if hooks := request.spec.hooks:
        state = _state(request, "stopped", 0)
        await _run_all("poststop", hooks.poststop, state, request)


def _state(request: ContainerRequest, status: str, pid: int) -> bytes:
    """Return the state of the runtime specification, as a hook finds it on its stdin."""
    state: dict[str, object] = {
        "ociVersion": request.spec.oci_version,
        "id": request.id,
        "status": status,
        "bundle": request.bundle,
        "annotations": dict(request.spec.annotations),
    }
    return json.dumps(state | ({"pid": pid} if pid else {})).encode()


async def _run_all(
    name: str, hooks: Sequence[oci.Hook], state: bytes, request: ContainerRequest
) -> None:
    for number, hook in enumerate(hooks):
        try:
            await _run(f"{name} hook {number}", hook, state, request.bundle)
        except HookError as error:
            _log.warning("container %s: %s", request.id, error)


async def _run(name: str, hook: oci.Hook, state: bytes, bundle: str) -> None:
    """Run one hook to its end; it is dead when this returns or raises `HookError`.

    Without an environment of its own it has ours, as under runc.
    """
    name = f"{name}, {hook.path},"
    stdin, output = (os.memfd_create(stream) for stream in ("state", "output"))
    try:
        os.write(stdin, state)
        os.lseek(stdin, 0, os.SEEK_SET)
        environment = dict(each.partition("=")[::2] for each in hook.env) or None
        try:
            child = spawn(
                hook.args or (hook.path,),
                program=hook.path,
                stdin=stdin,
                output=output,
                environment=environment,
                directory=bundle,
                prepare=_obey_signals,
            )
        except OSError as error:
            raise HookError(f"{name} cannot be run: {error.strerror}") from error
        try:
            code = await asyncio.wait_for(child.wait(), hook.timeout or None)
        except TimeoutError:
            raise HookError(
                f"{name} was killed after its timeout of {hook.timeout} s{_said(output)}"
            ) from None
        finally:
            child.kill()
            await child.wait()
        if code:
            raise HookError(f"{name} {describe_exit(code)}{_said(output)}")
    finally:
        os.close(stdin)
        os.close(output)


def _obey_signals() -> None:
    """Undo what a shim ignores, and its children would too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _said(output: int) -> str:
    size = os.fstat(output).st_size
    said = os.pread(output, _MOST_OUTPUT, max(0, size - _MOST_OUTPUT)).decode(errors="replace")
    return f": {said.strip()}" if said.strip() else ""
