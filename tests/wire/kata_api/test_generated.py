"""The checked-in modules are what the sources generate, and load on the oldest protobuf allowed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.wire

ROOT = Path(__file__).resolve().parents[3]


def modules(root: Path) -> dict[str, bytes]:
    found = [*root.glob("kata_api/**/*_pb2.py"), *root.glob("kata_api/**/*_pb2.pyi")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed (extra `dev`)")
    command = [sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    fresh, checked_in = modules(tmp_path), modules(ROOT / "src")
    assert sorted(fresh) == sorted(checked_in)
    assert [name for name in fresh if fresh[name] != checked_in[name]] == []


def test_oldest_protobuf_of_the_project_loads_the_modules() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lower = re.search(r'"protobuf>=(\d+)\.(\d+)', text)
    assert lower is not None
    allowed = tuple(map(int, lower.groups()))
    for name, source in modules(ROOT / "src").items():
        if name.endswith(".py"):
            made_by = re.search(rb"Protobuf Python Version: (\d+)\.(\d+)", source)
            assert made_by is not None, name
            assert tuple(map(int, made_by.groups())) <= allowed, name
