"""What a process uses, as the host's kernel tells it."""

import os
import subprocess
import sys

import pytest

from kata.host.usage import usage

pytestmark = pytest.mark.linux

_GROWING = "print(flush=True)\nwhile True: x = bytearray(50 << 20)"


def test_both_kinds_of_memory_are_of_one_moment() -> None:
    growing = subprocess.Popen([sys.executable, "-c", _GROWING], stdout=subprocess.PIPE)
    try:
        assert growing.stdout is not None
        assert growing.stdout.readline() == b"\n"
        for _ in range(50):
            used = usage(growing.pid)
            assert used.pss_kib is not None
            assert 0 < used.pss_kib <= used.rss_kib
    finally:
        growing.kill()
        growing.communicate()


def test_what_has_gone_is_no_process() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessLookupError):
        usage(gone.pid)


def test_our_own() -> None:
    used = usage(os.getpid())
    assert used.threads >= 1
    assert used.cpu_seconds > 0
