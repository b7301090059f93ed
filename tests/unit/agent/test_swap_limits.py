"""The limit of swap: one number in the specification, another in the kernel."""

import pytest

from kata_agent.limits import settings
from kata_api.agent.oci_pb2 import LinuxMemory, LinuxResources
from ttrpc import RpcError, StatusCode

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("limit", "total", "expected"),
    [
        (100, 0, None),
        (100, 100, "0"),
        (100, 250, "150"),
        (100, -1, "max"),
        (-1, 0, "max"),
    ],
)
def test_swap_alone(limit: int, total: int, expected: str | None) -> None:
    files = dict(settings(LinuxResources(Memory=LinuxMemory(Limit=limit, Swap=total))))
    assert files.get("memory.swap.max") == expected


@pytest.mark.parametrize(("limit", "total"), [(100, 50), (0, 200)])
def test_a_total_without_or_below_the_limit_is_refused(limit: int, total: int) -> None:
    with pytest.raises(RpcError) as error:
        settings(LinuxResources(Memory=LinuxMemory(Limit=limit, Swap=total)))
    assert error.value.code == StatusCode.INVALID_ARGUMENT
