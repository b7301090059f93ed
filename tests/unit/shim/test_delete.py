"""The one message that `delete` prints, against the generated class."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.shim.delete import is_mounted, response
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


def test_a_mount_point_is_known_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert is_mounted("/proc")
    assert is_mounted(str(tmp_path / "link"))
    assert not is_mounted(str(tmp_path))
    assert not is_mounted(str(tmp_path / "missing"))


def test_a_mount_point_with_odd_letters_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a b\\c\td"
    written = str(odd).replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
    row = (b"0:1", b"/", written.encode())
    monkeypatch.setattr("kata.host.proc.mounted", lambda _pid: {row})
    assert is_mounted(str(odd))
