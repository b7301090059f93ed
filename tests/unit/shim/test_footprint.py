"""What the resident process imports, each time in a process of its own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

_START = """
import sys
from kata.shim import daemon, footprint, start
footprint.reduce()
daemon.preload()
from kata.service import publisher
from kata_api import sandbox, task
"""


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _START + program],
        env={"PYTHONPATH": ":".join(sys.path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


def test_what_costs_memory_and_is_not_used_is_not_imported() -> None:
    heavy = {
        *("_ssl", "_hashlib", "ipaddress", "lzma", "pickle", "random", "rtnetlink"),
        *("google.protobuf.text_format", "kata.network.attachment"),
    }
    assert _run(f"print(*{heavy!r} & sys.modules.keys())") == "\n"


def test_nothing_uses_a_late_module_while_it_is_imported() -> None:
    program = "print(*(n for n in footprint.LATE if type(sys.modules[n]) is not footprint._Late))"
    assert _run(program) == "\n"


def test_a_late_module_is_there_when_it_is_used() -> None:
    program = """
import calendar, hashlib, inspect, locale, shutil
from concurrent.futures import ThreadPoolExecutor
from google.protobuf.internal import python_message
with ThreadPoolExecutor(8) as pool:
    print(*set(pool.map(lambda _: hashlib.sha256(b"a").hexdigest()[:8], range(64))))
print(calendar.timegm((1970, 1, 2, 0, 0, 0)), locale.getencoding().lower())
print(shutil.rmtree.__module__, python_message.GeneratedProtocolMessageType.__name__)
print(hasattr(shutil, "no_such_name"), inspect.isfunction(shutil.rmtree))
import shutil as again
print(type(again).__name__, again.rmtree is shutil.rmtree)
"""
    assert _run(program).splitlines() == [
        "ca978112",
        "86400 utf-8",
        "shutil GeneratedProtocolMessageType",
        "False True",
        "module True",
    ]


def test_asyncio_serves_without_tls() -> None:
    program = """
import asyncio
from asyncio import sslproto
from qemu.qmp import QMPClient
async def main():
    process = await asyncio.create_subprocess_exec("echo", "here", stdout=-1)
    print((await process.communicate())[0])
asyncio.run(main())
print(sslproto.ssl, QMPClient.__name__)
"""
    assert _run(program) == "b'here\\n'\nNone QMPClient\n"


def test_specifications_are_decoded_without_typing_extensions() -> None:
    program = """
from kata_api import oci
spec = oci.decode_spec(b'{"ociVersion": "1.1.0", "process": {"args": ["sh"], "cwd": "/"}}')
print(spec.process.args, sys.modules["typing_extensions"])
"""
    assert _run(program) == "('sh',) None\n"
