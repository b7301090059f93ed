"""The checked-in protobuf module is what its source compiles to."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = Path("src/ttrpc")


def test_the_commands_in_the_source_reproduce_the_module(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    (tmp_path / PACKAGE).mkdir(parents=True)
    source = PACKAGE / "ttrpc.proto"
    shutil.copy(ROOT / source, tmp_path / source)
    commands = re.findall(r"^//   (.+)$", (ROOT / source).read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        program = sys.executable if program == "python" else program
        subprocess.run([program, *arguments], cwd=tmp_path, check=True)
    for name in ("ttrpc_pb2.py", "ttrpc_pb2.pyi"):
        assert (tmp_path / PACKAGE / name).read_text() == (ROOT / PACKAGE / name).read_text()
