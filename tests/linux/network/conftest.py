"""A pod's network namespace, empty at first."""

from collections.abc import Iterator

import pytest
from lab.pod_namespace import Namespace, namespace


@pytest.fixture
def pod() -> Iterator[Namespace]:
    """A namespace; afterwards it is gone."""
    with namespace() as made:
        yield made
