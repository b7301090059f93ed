"""Fixtures: a pod's network namespace, empty at first or with its loopback carried to a guest."""

import asyncio
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from forwarded_pod import ForwardedPod, connected_guest, descriptors
from lab.pod_namespace import Namespace, namespace

from kata.agent_client.agent import Agent
from kata.network import port_forward
from kata.network.port_forward import PortForward
from kata_agent import forward as agent_forward
from kata_agent.forward import ForwardService
from kata_api import forward
from ttrpc import relay
from ttrpc.server import Server, bind


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """A namespace; afterwards it is gone."""
    with namespace() as made:
        yield made


@pytest.fixture
def with_loopback(pod: Namespace) -> Iterator[Namespace]:
    """A namespace with its loopback up, as CNI leaves it; nothing may listen there at the end."""
    pod.ip("link set lo up")
    yield pod
    show = ["ss", "-N", pod.name, "-H", "-l", "-n", "-t"]
    assert subprocess.run(show, check=True, capture_output=True, text=True).stdout == ""


@pytest.fixture
async def forwarded(
    with_loopback: Namespace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ForwardedPod]:
    """A namespace whose loopback is carried; at the end no descriptor, thread or task of it is left.

    What comes within a test's time comes by itself: no time of the product's is over before.
    """
    for module, name in (
        (relay, "_LOOK_SECONDS"),
        (port_forward, "_ANSWER_SECONDS"),
        (agent_forward, "_DIAL_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 1000.0)
    before = descriptors()
    threads = threading.active_count()
    server = Server(bind(forward.METHODS, ForwardService()))
    client, serving = await connected_guest(server)
    carried = await PortForward.start(with_loopback.path, Agent(client))
    yield ForwardedPod(with_loopback, carried, client, server)
    await carried.stop()
    await client.close()
    await serving
    await server.close()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert threading.active_count() == threads
    assert descriptors() == before
