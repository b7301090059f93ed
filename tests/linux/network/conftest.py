"""A pod's network namespace, empty at first."""

import secrets
import subprocess
from collections.abc import Iterator

import pytest
from namespaces import Namespace


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """An empty namespace; afterwards it is gone, and nothing else keeps it."""
    namespace = Namespace(f"kata-test-{secrets.token_hex(3)}")
    subprocess.run(["ip", "netns", "add", namespace.name], check=True)
    yield namespace
    subprocess.run(["ip", "netns", "delete", namespace.name], check=True)
