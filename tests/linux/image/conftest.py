"""An image built here, once, and its initrd as a tree."""

import os
import subprocess
from pathlib import Path

import pytest

from kata.cli.image import default_cache
from kata.image.build import build
from kata.image.manifest import INITRD


@pytest.fixture(scope="session")
def cache() -> str:
    """The builder's usual cache, so that packages are fetched once a machine."""
    return default_cache()


@pytest.fixture(scope="session")
def image(cache: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("image"))
    build(folder, cache)
    return folder


@pytest.fixture(scope="session")
def tree(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initrd, unpacked by another program than ours."""
    folder = tmp_path_factory.mktemp("tree")
    with open(os.path.join(image, INITRD), "rb") as archive:
        subprocess.run(["busybox", "cpio", "-idmu"], stdin=archive, cwd=folder, check=True)
    return folder
