"""The tables of methods against the services that the .proto files declare."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from kata_api import agent_service, events, forward, health, sandbox, task
from kata_api.agent import agent_pb2, forward_pb2, health_pb2
from kata_api.containerd import events_forward_pb2, events_pb2, sandbox_pb2, task_pb2
from ttrpc import Method

pytestmark = pytest.mark.unit

SOURCE = Path(__file__).resolve().parents[3] / "src"

TABLES = [
    (agent_service.METHODS, agent_pb2.DESCRIPTOR.services_by_name["AgentService"], 43),
    (forward.METHODS, forward_pb2.DESCRIPTOR.services_by_name["Forward"], 1),
    (health.METHODS, health_pb2.DESCRIPTOR.services_by_name["Health"], 2),
    (events.METHODS, events_forward_pb2.DESCRIPTOR.services_by_name["Events"], 1),
    (sandbox.METHODS, sandbox_pb2.DESCRIPTOR.services_by_name["Sandbox"], 9),
    (task.v2, task_pb2.DESCRIPTOR.services_by_name["Task"], 17),
]


@pytest.mark.parametrize(
    ("methods", "service", "count"), TABLES, ids=[row[1].full_name for row in TABLES]
)
def test_table_is_the_declared_service(
    methods: Iterable[Method[Any, Any]], service: ServiceDescriptor, count: int
) -> None:
    listed = [
        (m.service, m.name, m.request.DESCRIPTOR.full_name, m.response.DESCRIPTOR.full_name)
        for m in methods
    ]
    declared = [
        (service.full_name, m.name, m.input_type.full_name, m.output_type.full_name)
        for m in service.methods
    ]
    assert listed == declared
    assert len(listed) == count


@pytest.mark.parametrize("module", [agent_service, forward, health, events, sandbox])
def test_every_constant_is_in_the_table(module: Any) -> None:
    constants = [value for value in vars(module).values() if isinstance(value, Method)]
    assert constants == list(module.METHODS)


@pytest.mark.parametrize("module", [agent_service, forward, health, events, sandbox])
def test_constants_are_the_names_in_upper_snake_case(module: Any) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Method):
            assert name.replace("_", "").lower() == value.name.lower()


def test_task_versions_differ_in_the_name_of_the_service_only() -> None:
    assert {method.service for method in task.v2} == {"containerd.task.v2.Task"}
    assert {method.service for method in task.v3} == {"containerd.task.v3.Task"}
    assert [method[1:] for method in task.v2] == [method[1:] for method in task.v3]


def test_methods_of_both_task_versions_can_be_bound_together() -> None:
    assert len({method.path for method in (*task.v2, *task.v3)}) == 34


def test_topics_cover_the_task_events_and_no_other() -> None:
    messages = events_pb2.DESCRIPTOR.message_types_by_name
    published = {name for name in messages if name.startswith("Task")} - {"TaskIO"}
    assert {kind.DESCRIPTOR.name for kind in events.TOPICS} == published


@pytest.mark.parametrize(
    ("kind", "topic"),
    [
        (events_pb2.TaskOOM, "/tasks/oom"),
        (events_pb2.TaskExit, "/tasks/exit"),
        (events_pb2.TaskExecAdded, "/tasks/exec-added"),
        (events_pb2.TaskCheckpointed, "/tasks/checkpointed"),
    ],
)
def test_topic(kind: type[Any], topic: str) -> None:
    assert events.TOPICS[kind] == topic


def test_guest_imports_nothing_of_the_host() -> None:
    program = (
        "import sys; from kata_api import agent_service, forward, health; "
        "print(*[name for name in sys.modules if name.startswith(('kata_api', 'msgspec'))])"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert sorted(result.stdout.split()) == [
        "kata_api",
        "kata_api.agent",
        "kata_api.agent.agent_pb2",
        "kata_api.agent.csi_pb2",
        "kata_api.agent.forward_pb2",
        "kata_api.agent.health_pb2",
        "kata_api.agent.oci_pb2",
        "kata_api.agent.types_pb2",
        "kata_api.agent_service",
        "kata_api.forward",
        "kata_api.health",
    ]
