"""Values: codes, errors, methods, and the names of handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.wrappers_pb2 import Int64Value

from ttrpc import ConnectionClosedError, Method, RpcError, StatusCode
from ttrpc.server import Server, bind

pytestmark = pytest.mark.unit

NAMES = {
    "CreateContainer": "create_container",
    "State": "state",
    "CloseIO": "close_io",
    "GetOOMEvent": "get_oom_event",
    "OnlineCPUMem": "online_cpu_mem",
    "AddARPNeighbors": "add_arp_neighbors",
    "GetIPTables": "get_ip_tables",
    "SetIPTables": "set_ip_tables",
    "UpdateInterface": "update_interface",
    "ResizePty": "resize_pty",
    "TtyWinResize": "tty_win_resize",
    "MemHotplugByProbe": "mem_hotplug_by_probe",
    "SetGuestDateTime": "set_guest_date_time",
    "ReadStdout": "read_stdout",
    "Get2Things": "get2_things",
    "IO": "io",
    "already_snake": "already_snake",
}


@pytest.mark.parametrize(("name", "function"), NAMES.items())
def test_handler_names(name: str, function: str) -> None:
    handler = type("Handler", (), {function: lambda self, request, context: None})()
    method = Method("s.S", name, Int64Value, Int64Value)
    (bound,) = bind([method], handler).values()
    assert bound.handler is not None
    assert bound.method is method


def test_a_missing_function_binds_to_nothing() -> None:
    method = Method("s.S", "State", Int64Value, Int64Value)
    assert bind([method], object())["/s.S/State"].handler is None


def test_a_method_cannot_be_bound_twice() -> None:
    method = Method("s.S", "State", Int64Value, Int64Value)
    with pytest.raises(ValueError, match=r"/s\.S/State"):
        bind([method, method], object())
    with pytest.raises(ValueError, match=r"/s\.S/State"):
        Server(bind([method], object()), bind([method], object()))


def test_methods_are_immutable_values() -> None:
    method = Method("s.S", "State", Int64Value, Int64Value)
    assert method.path == "/s.S/State"
    assert method == Method("s.S", "State", Int64Value, Int64Value, client_streams=False)
    with pytest.raises(AttributeError):
        method.name = "Other"  # type: ignore[misc]


def test_codes_are_grpcs() -> None:
    assert [code.value for code in StatusCode] == list(range(17))
    assert StatusCode.from_wire(5) is StatusCode.NOT_FOUND
    assert StatusCode.from_wire(17) is StatusCode.UNKNOWN
    assert StatusCode.from_wire(-1) is StatusCode.UNKNOWN


def test_error_texts() -> None:
    error = RpcError(StatusCode.NOT_FOUND, "no such thing")
    assert (str(error), error.details) == ("NOT_FOUND: no such thing", ())
    assert ConnectionClosedError().message == "ttrpc: closed"
    assert ConnectionClosedError("gone").message == "ttrpc: closed: gone"
    assert ConnectionClosedError().code is StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("module", "absent"),
    [("ttrpc", {"asyncio", "google.protobuf"}), ("ttrpc.connection", {"asyncio", "logging"})],
)
def test_imports_stay_small(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*({absent!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
