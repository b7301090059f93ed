"""A whole image, built of the distribution's packages on this machine."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kata.image import guest, manifest
from kata.image.agent_sources import AgentSources, installed_sources
from kata.image.build import build
from kata.image.elf import ElfFile
from kata.image.errors import ImageError
from kata.image.manifest import INITRD, KERNEL, MANIFEST
from kata.image.progress import Step

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="there is no busybox"),
    pytest.mark.skipif(os.geteuid() != 0, reason="device nodes and chroot need root"),
]

_CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin") or "chroot"
FILES = (KERNEL, INITRD, MANIFEST)


@pytest.fixture
def sources(tmp_path: Path) -> AgentSources:
    """The installed agent, as a copy that may be changed."""
    installed = installed_sources()
    copy = tmp_path / "kata_agent"
    shutil.copytree(installed.packages[0], copy)
    return dataclasses.replace(installed, packages=(str(copy), *installed.packages[1:]))


def contents(folder: str) -> dict[str, bytes]:
    return {name: Path(folder, name).read_bytes() for name in FILES}


def test_two_builds_of_the_same_inputs_are_identical(
    image: str, cache: str, tmp_path: Path
) -> None:
    """Nothing but the packages' files and the index is shared: all else is made again."""
    second_cache, second = tmp_path / "cache", tmp_path / "image"
    shutil.copytree(cache, second_cache, symlinks=True)
    for made in ("root", "kernel", "bytecode", "stage"):
        shutil.rmtree(second_cache / made)
    build(str(second), str(second_cache))
    assert contents(str(second)) == contents(image)


def _identities(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What changes when a file is written or replaced, not when it is read, as its check does."""
    stats = {name: (folder / name).stat() for name in FILES}
    return {name: (it.st_ino, it.st_size, it.st_mtime_ns) for name, it in stats.items()}


def test_a_finished_image_is_left_alone_and_a_damaged_one_is_not(
    image: str, cache: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(image, tmp_path / "image")
    before = _identities(copy)
    steps: list[Step] = []
    build(str(copy), cache, lambda step, _: steps.append(step))
    assert steps == []
    assert _identities(copy) == before

    with open(copy / INITRD, "r+b") as stream:
        stream.write(b"damage")
    found = manifest.read(str(copy))
    assert manifest.differences(str(copy), found) == [
        f"{INITRD} has another SHA-256 than when it was built"
    ]
    build(str(copy), cache)
    assert contents(str(copy)) == contents(image)
    assert sorted(os.listdir(copy)) == sorted(FILES)


def test_a_change_of_the_agent_changes_the_initrd_alone(
    image: str, cache: str, sources: AgentSources, tmp_path: Path
) -> None:
    with open(os.path.join(sources.packages[0], "main.py"), "a", encoding="utf-8") as stream:
        stream.write("CHANGED = True\n")
    folder = str(tmp_path / "image")
    started = time.monotonic()
    changed = build(folder, cache, sources=sources)
    print(f"rebuilt in {time.monotonic() - started:.2f} s")
    original = manifest.read(image)
    assert changed.agent != original.agent
    assert changed.files[KERNEL] == original.files[KERNEL]
    assert changed.files[INITRD] != original.files[INITRD]
    assert changed.packages == original.packages


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import module_that_is_nowhere", "No module named 'module_that_is_nowhere'"),
        ("def f():\n    import module_that_is_nowhere", "module_that_is_nowhere"),
        ("def f(:", "SyntaxError"),
        ("import sqlite3", "sqlite3"),
    ],
)
def test_an_agent_that_cannot_run_in_the_guest_is_refused_and_the_old_image_stays(
    image: str, cache: str, sources: AgentSources, tmp_path: Path, line: str, message: str
) -> None:
    copy = shutil.copytree(image, tmp_path / "image")
    Path(sources.packages[0], "extra.py").write_text(line + "\n")
    if line == "import sqlite3":
        # The standard library has it, and so do its packages: it comes along.
        made = build(str(copy), cache, sources=sources)
        assert message in made.python.modules
        assert "libsqlite3-0" in {package.name for package in made.packages}
        return
    with pytest.raises(ImageError, match=message):
        build(str(copy), cache, sources=sources)
    assert contents(str(copy)) == contents(image)


def test_the_kernel_is_an_elf_that_qemu_enters_by_its_note(image: str) -> None:
    kernel = Path(image, KERNEL).read_bytes()
    assert any(note.owner == b"Xen" and note.kind == 18 for note in ElfFile(kernel, "it").notes())
    assert manifest.read(image).kernel.release.encode() in kernel


def test_the_tree_holds_all_that_the_agent_imports(tree: Path, image: str) -> None:
    """Only the tree's own interpreter, libraries and modules are there after chroot."""
    modules = [name for name in manifest.read(image).python.modules if name != "zipimport"]
    code = (
        "import sys; sys.path[:] = [*sys.path[1:], '/usr/lib/kata-agent']; import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from kata_agent import libseccomp; assert libseccomp.number('read') is not None\n"
        "from google.protobuf.internal import api_implementation\n"
        "print(api_implementation.Type(), *sorted(m for m in sys.modules if 'ssl' in m))"
    )
    done = subprocess.run(
        [_CHROOT, tree, "/usr/bin/python3", "-ISB", "-c", code],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "upb asyncio.sslproto\n"


def test_the_tree_is_a_root_file_system(tree: Path) -> None:
    assert os.stat(tree / "dev/console").st_rdev == os.makedev(5, 1)
    assert os.readlink(tree / "lib") == "usr/lib"
    assert (tree / "init").read_bytes().startswith(b"#!/usr/bin/python3 -ISB\n")
    shell = [_CHROOT, tree, "/bin/sh", "-c", "echo from busybox"]
    assert subprocess.run(shell, capture_output=True, check=True).stdout == b"from busybox\n"
    sources = [path for path in tree.rglob("*.py") if path.is_file()]
    assert sources == []


def test_modules_dep_agrees_with_depmod(tree: Path, image: str, tmp_path: Path) -> None:
    """The same dependencies as kmod computes from the modules' symbols."""
    depmod = shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin")
    if depmod is None:
        pytest.skip("there is no depmod (package kmod)")
    release = manifest.read(image).kernel.release
    ours = tree / "usr/lib/modules" / release
    theirs = tmp_path / "lib/modules" / release
    shutil.copytree(ours / "kernel", theirs / "kernel")
    shutil.copy(ours / "modules.builtin", theirs)
    (theirs / "modules.order").touch()
    subprocess.run([depmod, "-b", tmp_path, release], check=True, capture_output=True)
    assert _dependencies(ours / "modules.dep") == _dependencies(theirs / "modules.dep")
    assert _aliases(ours) == _aliases(theirs)


def _dependencies(path: Path) -> dict[str, set[str]]:
    lines = (line.split(":") for line in path.read_text().splitlines())
    return {name: set(below.split()) for name, below in lines}


def _aliases(folder: Path) -> set[str]:
    lines = (folder / "modules.alias").read_text().splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_libraries_are_those_that_readelf_names(tree: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("there is no readelf (package binutils)")
    libraries = [
        path
        for path in (tree / "usr").rglob("*")
        if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF"
        if path.suffix != ".ko"
    ]
    assert len(libraries) > 10
    for path in libraries:
        output = subprocess.run(
            ["readelf", "-d", path], capture_output=True, text=True, check=True
        ).stdout
        expected = [
            line.split("[")[1].rstrip("]") for line in output.splitlines() if "(NEED" in line
        ]
        assert list(ElfFile(path.read_bytes(), path.name).needed()) == expected


def test_byte_code_does_not_depend_on_what_was_compiled_before(tmp_path: Path) -> None:
    script = os.path.join(os.path.dirname(guest.__file__), "compile_modules.py")
    names = ["argparse", "ast", "dataclasses", "typing"]
    library = os.path.dirname(os.__file__)

    def compiled(order: list[str], folder: Path) -> dict[str, bytes]:
        folder.mkdir()
        jobs = "".join(f"{library}/{name}.py\t/x/{name}.py\t{folder}/{name}\n" for name in order)
        subprocess.run([sys.executable, "-I", script], input=jobs, text=True, check=True)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    forward = compiled(names, tmp_path / "forward")
    assert sorted(forward) == names
    assert compiled(names[::-1], tmp_path / "backward") == forward
    assert compiled(names[1:2], tmp_path / "alone") == {"ast": forward["ast"]}
