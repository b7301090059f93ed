"""Images that the laboratory runs, made of Debian packages; no registry is asked.

Archives lie in the cache, named by a hash of what they were made from.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import pause
from lab.archive import File, Folder, Link, layer, write_image
from lab.command import run
from lab.debian import Suite, host_codename
from lab.freshness import digest
from lab.paths import CACHE
from lab.progress import step

_RECIPE: Final = "2"  # part of every archive's name: raise it when a recipe below changes
_PASSWD: Final = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
_GROUP: Final = b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"


@dataclass(frozen=True, slots=True)
class Image:
    """An image: the name it has in containerd, and how its archive is brought into the cache."""

    name: str
    archive: Callable[[], Path]


def _cached(stem: str, key: str) -> Path:
    return CACHE / "images" / f"{stem}-{digest(_RECIPE, key)[:12]}.tar"


def busybox_archive() -> Path:
    """Return the archive of an image that holds busybox and a link for each of its applets."""
    tree = Suite(host_codename()).unpack(["busybox-static"])
    # Packages hold /usr/bin since Debian 13, where /bin is a link to it.
    program = next(path for path in tree.glob("**/bin/busybox") if path.is_file())
    data = program.read_bytes()
    path = _cached("busybox", digest(data))
    if path.exists():
        return path
    with step("image busybox"):
        applets = run([program, "--list"]).stdout.split()
        entries: list[Folder | File | Link] = [
            *map(Folder, ("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var")),
            Folder("root", 0o700),
            Folder("tmp", 0o1777),
            File("bin/busybox", data, 0o755),
            File("etc/passwd", _PASSWD),
            File("etc/group", _GROUP),
            Link("usr/bin/env", "../../bin/busybox"),
            *(Link(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        ]
        write_image(path, BUSYBOX.name, layer(entries), ["sh"])
    return path


def debian_archive() -> Path:
    """Return the archive of a minimal Debian of the machine's own suite."""
    codename = host_codename()
    suite = Suite(codename)
    path = _cached(f"debian-{codename}", suite.source.as_deb822())
    if path.exists():
        return path
    with step(f"image Debian {codename} (mmdebstrap, minbase)"):
        tar = path.with_suffix(".rootfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The epoch makes mmdebstrap's tar the same for the same packages.
            run(
                [
                    # Its mounts go with it, however it ends.
                    *("unshare", "--mount", "--propagation", "private"),
                    "mmdebstrap",
                    "--variant=minbase",
                    "--mode=root",
                    "--format=tar",
                    codename,
                    tar,
                    "-",
                ],
                env={"SOURCE_DATE_EPOCH": "0"},
                stdin=suite.source.as_deb822().encode(),
                timeout_s=1200,
                remedy="mmdebstrap needs the mirror named in the machine's apt sources",
            )
            write_image(path, DEBIAN.name, tar.read_bytes(), ["bash"])
        finally:
            tar.unlink(missing_ok=True)
    return path


def pause_archive() -> Path:
    """Return the archive of the image that a pod's sandbox container runs."""
    program = pause.program()
    path = _cached("pause", digest(program))
    if not path.exists():
        folders = map(Folder, ("dev", "etc", "proc", "sys"))
        write_image(path, PAUSE.name, layer([*folders, File("pause", program, 0o755)]), ["/pause"])
    return path


BUSYBOX: Final = Image("docker.io/library/busybox:latest", busybox_archive)
DEBIAN: Final = Image("docker.io/library/debian:latest", debian_archive)
PAUSE: Final = Image("docker.io/library/pause:latest", pause_archive)
