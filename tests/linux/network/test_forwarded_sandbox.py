"""Port-forward as a part of a sandbox's network."""

import asyncio
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from forwarded_pod import connected_guest
from lab.paths import CHECKOUT
from lab.pod_namespace import Namespace

from kata.agent_client.agent import Agent
from kata.config import Configuration, load
from kata.host import netns
from kata.network import port_forward
from kata.sandbox.pod_network import PodNetwork
from ttrpc.server import Server

pytestmark = pytest.mark.linux


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    path = tmp_path / "configuration.toml"
    path.write_text('[hypervisor.qemu]\npath = "/q"\nkernel = "/k"\ninitrd = "/i"\n')
    return load(str(path))


async def test_loopback_of_the_pod_is_carried_until_it_is_told_to_stop(
    with_loopback: Namespace, configuration: Configuration
) -> None:
    server = Server()
    client, serving = await connected_guest(server)
    network = PodNetwork(with_loopback.path, configuration)
    stop = await network.forward_ports(Agent(client))
    assert stop is not None

    def dial() -> None:
        socket.create_connection(("127.0.0.1", 80)).close()

    await asyncio.to_thread(netns.inside, with_loopback.path, dial)
    await stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(netns.inside, with_loopback.path, dial)
    await client.close()
    await serving


async def test_sandbox_without_a_namespace_has_none(configuration: Configuration) -> None:
    server = Server()
    client, serving = await connected_guest(server)
    assert await PodNetwork("", configuration).forward_ports(Agent(client)) is None
    await client.close()
    await serving


async def test_kernel_that_does_not_have_it_costs_a_warning(
    with_loopback: Namespace,
    configuration: Configuration,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "bpf: Operation not permitted")

    monkeypatch.setattr(port_forward.bpf, "load_lookup_program", refuse)
    server = Server()
    client, serving = await connected_guest(server)
    with caplog.at_level(logging.WARNING):
        network = PodNetwork(with_loopback.path, configuration)
        assert await network.forward_ports(Agent(client)) is None
    assert "the pod has no port-forward" in caplog.text
    assert "Operation not permitted" in caplog.text
    await client.close()
    await serving


def test_sandbox_without_a_namespace_does_not_pay_for_it() -> None:
    program = (
        "import sys, kata.sandbox.bring_up;"
        "print(*sorted({'ttrpc.relay', 'kata.host.bpf', 'kata_api.forward'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": str(CHECKOUT / "src")}
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert said.stdout == "\n"
