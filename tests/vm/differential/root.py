"""The root filesystem that every specification runs in: an interpreter, busybox, and the probe."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from lab.debian import Suite

PYTHON: Final = "/usr/bin/python3.11"
PROBE: Final = "/probe.pyc"

# This suite's names and versions, whatever the machine runs: the root is closed in itself.
_SUITE: Final = "bookworm"
_PACKAGES: Final = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "zlib1g",
    "libexpat1",
    "libffi8",
    "busybox-static",
)
_KEPT: Final = (
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/x86_64-linux-gnu/libexpat.so*",
    "lib/x86_64-linux-gnu/libm.so.6",
    "lib/x86_64-linux-gnu/libz.so*",
    "usr/lib/x86_64-linux-gnu/libexpat.so*",
    "usr/lib/x86_64-linux-gnu/libffi.so*",
    "usr/lib/python3.11/*.py",
    "usr/lib/python3.11/collections/*.py",
    "usr/lib/python3.11/ctypes/*.py",
    "usr/lib/python3.11/encodings/*.py",
    "usr/lib/python3.11/importlib/**/*.py",
    "usr/lib/python3.11/lib-dynload/_ctypes.*",
    "usr/lib/python3.11/re/*.py",
    PYTHON[1:],
    "bin/busybox",
)
_FOLDERS: Final = ("dev", "etc", "home/ann", "proc", "run", "srv", "sys", "tmp")
_COMPILE: Final = """
import os, py_compile
library = '/usr/lib/python3.11/'
for folder in ('ctypes', 'encodings'):
    for name in os.listdir(library + folder):
        if name.endswith('.py'):
            py_compile.compile(library + folder + '/' + name)
for name in ('struct.py', 'types.py'):
    py_compile.compile(library + name)
py_compile.compile('/probe.py', cfile='/probe.pyc')
"""


def build(root: Path) -> None:
    """Make the root in an empty folder, everything compiled: the guest's processor is slow."""
    packages = Suite(_SUITE).unpack(_PACKAGES)
    for pattern in _KEPT:
        for source in packages.glob(pattern):
            if source.is_symlink() and source.readlink().is_absolute():
                continue  # it leads to a file of the machine's, which may have another Python
            target = root / source.relative_to(packages)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "lib64").mkdir()
    (root / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    (root / "bin/sh").symlink_to("busybox")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nann:x:1000:\nextra:x:2000:ann\n")
    shutil.copy(Path(__file__).with_name("probe.py"), root)
    subprocess.run(["chroot", root, PYTHON, "-I", "-S", "-c", _COMPILE], check=True, timeout=120)
