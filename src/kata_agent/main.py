"""The agent's entry point: PID 1 of the VM from its first instruction to the power switch."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys

from kata_agent import VERSION, serial_port, vsock
from kata_agent import syscalls as sc
from kata_agent.command_line import AgentOptions, parse
from kata_agent.forward import ForwardService
from kata_agent.kernel_modules import KernelModules
from kata_agent.sandbox import Sandbox
from kata_agent.service import AgentService, HealthService
from kata_api import agent_service, forward, health
from ttrpc.server import Server, bind

_LOG = logging.getLogger("kata_agent")
_LEVELS = {"trace": "DEBUG", "warn": "WARNING"}  # upstream's names where logging has others
_PORT_WAIT_SECONDS = 10.0


def main() -> None:
    """Boot the guest and serve until SIGTERM; then, or after any failure, turn the machine off.

    A failure's traceback goes to the console. Refuses to run as anything but PID 1.
    """
    if os.getpid() != 1:
        sys.stderr.write("kata-agent: must be the first process of a VM; run it as its init\n")
        sys.exit(1)
    try:
        from kata_agent.boot import boot

        modules = boot()
        options = _read_options()
        _start_log(options)
        if options.debug_console and not options.debug_console_port:
            from kata_agent import debug_console

            debug_console.start()
        # What boot made lives for ever; leaving it out of collections also keeps its pages shared.
        gc.collect()
        gc.freeze()
        asyncio.run(_serve(modules, options))
    except BaseException:  # noqa: BLE001 - the kernel panics if this process ends for any reason
        import traceback

        traceback.print_exc()
    finally:
        os.sync()
        sc.power_off()


def _read_options() -> AgentOptions:
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
        return parse(file.read())


def _start_log(options: AgentOptions) -> None:
    logging.basicConfig(
        format="kata-agent: %(levelname)s: %(message)s",
        level=_LEVELS.get(options.log, options.log.upper()),
    )
    for word in options.unknown:
        _LOG.warning("kernel command line: %s is not known to this agent", word)


async def _serve(modules: KernelModules, options: AgentOptions) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    sandbox = Sandbox(
        load_module=modules.load, adopt_orphans=True, debug_console=options.debug_console
    )
    server = Server(
        bind(agent_service.METHODS, AgentService(sandbox)),
        bind(health.METHODS, HealthService()),
        bind(forward.METHODS, ForwardService()),
    )
    serving = asyncio.create_task(_serve_transports(server))
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving in done:
        stopping.cancel()
        serving.result()  # raises what ended it
        raise RuntimeError("no transport to the host is left; power off")
    await sandbox.destroy()
    serving.cancel()
    await server.close()


async def _serve_transports(server: Server) -> None:
    """Serve on every transport there is. Raises ``RuntimeError`` when there is none."""
    async with asyncio.TaskGroup() as group:
        by_vsock = group.create_task(vsock.serve(server))
        device = await serial_port.wait(_PORT_WAIT_SECONDS)
        if device is None:
            if by_vsock.done():
                raise RuntimeError(
                    f"the VM has neither a virtio-serial port named {serial_port.NAME} nor a "
                    "vsock device; add one of them to it"
                )
            return
        _LOG.info("kata-agent %s serves on %s", VERSION, device)
        group.create_task(serial_port.serve(server, device))
