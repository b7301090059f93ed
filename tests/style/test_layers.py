"""The direction of imports: the tables here are the rule, and ARCHITECTURE.md prints the first."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree import ROOT, SOURCE, relative, with_suffix

pytestmark = pytest.mark.style

_PARTS = ("kata.hypervisor", "kata.storage", "kata.agent_client", "kata.resources")
_BELOW_PARTS = ("kata.host", "kata.config", "kata_api", "ttrpc", "rtnetlink")
_BELOW_SERVICE = ("kata.sandbox", *_PARTS, *_BELOW_PARTS)
_BELOW_SHIM = ("kata.service", *_BELOW_SERVICE)

# Package: the packages of this project that it may import, beside itself.
LAYERS: dict[str, tuple[str, ...]] = {
    "ttrpc": (),
    "rtnetlink": (),
    "kata_api": ("ttrpc",),
    "kata_agent": (
        *("ttrpc", "rtnetlink"),
        *("kata_api.agent", "kata_api.agent_service", "kata_api.health"),
    ),
    "kata.host": (),
    "kata.config": ("kata.host",),
    "kata.hypervisor": _BELOW_PARTS,
    "kata.storage": _BELOW_PARTS,
    "kata.agent_client": _BELOW_PARTS,
    "kata.resources": _BELOW_PARTS,
    "kata.template": ("kata.hypervisor", "kata.agent_client", *_BELOW_PARTS),
    "kata.network": ("kata.hypervisor", "kata.agent_client", *_BELOW_PARTS),
    "kata.sandbox": (*_PARTS, "kata.network", "kata.template", *_BELOW_PARTS),
    "kata.service": _BELOW_SERVICE,
    "kata.shim": _BELOW_SHIM,
    "kata.image": ("kata.host", "kata.config"),
    "kata.image.guest": ("kata_agent",),  # programs that are copied into the guest and run there
    "kata.checks": (
        *("kata.hypervisor", "kata.storage", "kata.template", "kata.image"),
        *("kata.config", "kata.host"),
    ),
    "kata.cli": ("kata",),
    "kata": (),
}

# Names of the root package, which every import of something below it has loaded already.
OF_EVERY_KATA_MODULE = ("kata.__version__",)

# Module or package: the distributions that it, and what is below it, may import. The longest name counts.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "ttrpc": ("google.protobuf",),
    "kata_api": ("google.protobuf",),
    "kata_api.oci": ("msgspec",),
    "kata_agent": ("google.protobuf.empty_pb2",),  # the answer of most of its methods
    "kata.hypervisor": ("qemu.qmp",),
    "kata.storage": (
        "msgspec",
    ),  # makes specifications of specifications (msgspec.structs.replace)
    "kata.agent_client": ("google.protobuf", "msgspec"),
    "kata.sandbox": ("msgspec",),
    "kata.image": ("msgspec",),
    "kata.service": ("google.protobuf", "msgspec"),
    "kata.shim": ("google.protobuf",),
    "kata.cli": ("typer", "rich", "tomlkit"),
}


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _longest(module: str, names: dict[str, tuple[str, ...]]) -> str | None:
    return max((name for name in names if _within(module, name)), key=len, default=None)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that the module imports, late and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = len(parts) - node.level + is_package
                origin = ".".join([*parts[:kept], *filter(None, [node.module])])
            # `from a import b` may name a module or a name in one; the longer form tells more.
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    layer = _longest(module, LAYERS)
    if layer is None:
        return [f"{module} belongs to no row of LAYERS"]
    # A new package below kata needs a row; only the root's own __init__ is the row `kata`.
    if layer == "kata" and module != "kata":
        return [f"{module} belongs to no row of LAYERS"]
    outside = THIRD_PARTY.get(_longest(module, THIRD_PARTY) or "", ())
    allowed = (
        layer,
        *LAYERS[layer],
        *outside,
        *(OF_EVERY_KATA_MODULE if _within(module, "kata") else ()),
    )
    found = []
    for line, name in imports(ast.parse(source), module, is_package=is_package):
        if name.partition(".")[0] in sys.stdlib_module_names:
            continue
        if not any(_within(name, package) for package in allowed):
            found.append(f"line {line}: {module} must not import {name}")
    return found


@pytest.mark.parametrize(
    "path", [p for p in with_suffix(".py") if SOURCE in p.parents], ids=relative
)
def test_imports_point_down(path: Path) -> None:
    is_package = path.name == "__init__.py"
    found = faults(path.read_text(), module_name(path), is_package=is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "is_allowed"),
    [
        ("ttrpc.client", "import asyncio, ttrpc.frames", True),
        ("ttrpc.client", "from google.protobuf.message import Message", True),
        ("ttrpc.client", "import kata_api.any", False),
        ("ttrpc.client", "import msgspec", False),
        ("rtnetlink.route", "import struct, rtnetlink.message", True),
        ("rtnetlink.route", "import ttrpc", False),
        ("rtnetlink.route", "import google.protobuf", False),
        ("ttrpc", "from .frames import Frame", True),
        ("kata_api.oci", "import msgspec", True),
        ("kata_api.oci", "import google.protobuf", False),
        ("kata_api.task", "import msgspec", False),
        ("kata_agent.rpc", "from kata_api import agent_service, health", True),
        ("kata_agent.rpc", "from kata_api.agent.oci_pb2 import Spec", True),
        ("kata_agent.rpc", "from google.protobuf.empty_pb2 import Empty", True),
        ("kata_agent.rpc", "from google.protobuf import json_format", False),
        ("kata_agent.rpc", "import rtnetlink", True),
        ("kata_agent.rpc", "from kata_api import oci", False),
        ("kata_agent.rpc", "from kata_api.containerd import task_pb2", False),
        ("kata_agent.rpc", "import kata.host", False),
        ("kata_agent.rpc", "def late():\n    import msgspec", False),
        ("kata.host.mounts", "import kata.config", False),
        ("kata.config.load", "from kata.host import mounts", True),
        ("kata.config.load", "from kata.sandbox import Sandbox", False),
        ("kata.config.load", "from ..sandbox import Sandbox", False),
        ("kata.config.load", "from .. import sandbox", False),
        ("kata.config.load", "from . import table", True),
        ("kata.storage.share", "import kata.hypervisor.qemu", False),
        ("kata.hypervisor.qemu.machine", "from qemu.qmp import QMPClient", True),
        ("kata.sandbox.bring_up", "from kata.storage import share", True),
        ("kata.sandbox.bring_up", "import google.protobuf", False),
        ("kata.service.task", "from kata.sandbox import Sandbox", True),
        ("kata.service.task", "if TYPE_CHECKING:\n    from kata.shim import daemon", False),
        ("kata.shim.info", "from kata import __version__", True),
        ("kata.shim.info", "from kata import cli", False),
        ("ttrpc.client", "from kata import __version__", False),
        ("kata.image.guest.init", "from kata_agent.main import main", True),
        ("kata.image.build", "from kata_agent.main import main", False),
        ("kata.cli.ctl", "import kata.image, typer", True),
        ("kata.drawer.things", "import os", False),
        ("kata_other", "import os", False),
    ],
)
def test_rule_tells_good_from_bad(module: str, source: str, is_allowed: bool) -> None:
    assert (faults(source, module, is_package=module == "ttrpc") == []) is is_allowed


def test_architecture_prints_a_row_for_each_layer() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.partition("## Import rule")[2]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    printed = {name for cell in first_cells for name in re.findall(r"`([\w.]+)`", cell)}
    assert printed == set(LAYERS) - {"kata", "kata.image.guest"}
