"""The one message that `delete` prints, against the generated class."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.shim.delete import response
from kata_api.containerd.task_pb2 import DeleteResponse

pytestmark = pytest.mark.unit


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.floats(0, 2**33, allow_nan=False),
)
def test_decodes_to_what_was_meant(pid: int, status: int, at: float) -> None:
    message = DeleteResponse.FromString(response(pid, status, at))
    assert (message.pid, message.exit_status) == (pid, status)
    assert message.exited_at.seconds == int(at)
    assert abs(message.exited_at.nanos / 1e9 - (at - int(at))) < 1e-6
