"""Fixtures: a pod's network namespace, alone and with its loopback carried to a guest."""

import asyncio
import os
import shutil
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from forwarded_pod import Pod, connected_guest, descriptors, ip

from kata.agent_client.agent import Agent
from kata.network.port_forward import PortForward
from kata_agent.forward import ForwardService
from kata_api import forward
from ttrpc.server import Server, bind


@pytest.fixture(autouse=True, scope="session")
def _requirements() -> None:
    if os.geteuid():
        pytest.skip("missing: root, to create network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("missing: ip, Debian package iproute2")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A named namespace with its loopback up, as CNI leaves it; nothing may listen there at the end."""
    name = f"kata-test-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    ip(name, "link", "set", "lo", "up")
    yield f"/run/netns/{name}"
    show = ["ss", "-N", name, "-H", "-l", "-n", "-t"]
    left = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    subprocess.run(["ip", "netns", "del", name], check=True)
    assert left == ""


@pytest.fixture
async def pod(namespace: str) -> AsyncIterator[Pod]:
    """A carried namespace; at the end no descriptor, thread or task of it is left."""
    before = descriptors()
    threads = threading.active_count()
    server = Server(bind(forward.METHODS, ForwardService()))
    client, serving = await connected_guest(server)
    carried = await PortForward.start(namespace, Agent(client))
    yield Pod(namespace, carried, client, server)
    await carried.stop()
    await client.close()
    await serving
    await server.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert threading.active_count() == threads
    assert descriptors() == before
