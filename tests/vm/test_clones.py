"""A hundred clones of one template: what must differ does."""

import asyncio
import itertools
import os
import secrets
import sys
from pathlib import Path
from typing import Final

import pytest
from lab.bundle import Configured
from lab.paths import CHECKOUT, GUEST_KERNEL

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(not GUEST_KERNEL.exists(), reason="no guest built; run `make setup`"),
]

_CLONES: Final = 100
_AT_ONCE: Final = 2
# Half a second, in units of 64 ns: the clock is read a little before the kernel reads it.
_SLACK: Final = 500_000_000 >> 6

# On a machine that others starve: a guest that answers late is booted, and is no clone.
_PATIENT: Final = """
import runpy
from kata.sandbox import guest_start
guest_start._RESTORED_TIMEOUT = 60.0
runpy.run_module("lab.clones", run_name="__main__", alter_sys=True)
"""


async def _clones(configuration: Path, name: str) -> list[list[str]]:
    """Restore a share of the clones, one after another; return what each one said, by word."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PATIENT, str(configuration), name),
        str(_CLONES // _AT_ONCE),
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": f"{CHECKOUT / 'src'}:{CHECKOUT}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return [line.split() for line in said.decode().splitlines()]


async def test_a_hundred_share_no_random_bytes_ids_or_sequence_numbers(
    configured: Configured,
) -> None:
    configured.set("agent.kata", debug_console_enabled="true")
    name = f"clone-{secrets.token_hex(4)}"
    found = await asyncio.gather(
        *(_clones(configured.path, f"{name}-{worker}") for worker in range(_AT_ONCE))
    )
    clones = [clone for some in found for clone in some]
    assert len(clones) == _CLONES
    for what, words in zip(
        ("random bytes", "host name", "UUID", "boot id"),
        list(zip(*clones, strict=True))[:4],
        strict=True,
    ):
        assert len(set(words)) == _CLONES, what
    hashes = [[int(word) for word in clone[4:]] for clone in clones]
    assert all(len(each) == 4 for each in hashes)
    for one, other in itertools.combinations(hashes, 2):
        # Two secrets may give one connection hashes that are close, but not all four.
        assert not all(_close(a, b) for a, b in zip(one, other, strict=True))
    assert not list(Path("/run/kata").glob(f"{name}*"))


def _close(one: int, other: int) -> bool:
    return min((one - other) % 2**32, (other - one) % 2**32) < _SLACK
