"""The linters and the type checker, as tests."""

import importlib.util
import subprocess
import sys

import pytest
from tree import ROOT

pytestmark = pytest.mark.style


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--check", "--no-cache", "."),
        ("mypy",),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_is_clean(command: tuple[str, ...]) -> None:
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (extra `dev`)")
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # Standard error is where a tool says that it did not understand its configuration.
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr
