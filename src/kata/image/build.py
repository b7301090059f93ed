"""The build of a guest image, from packages to three files.

`build` is the list of steps. What a step makes is kept in the cache by the digest of what decided
it, so a second build does only what changed.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from kata.image import cpio, initrd, kernel_package, manifest
from kata.image.agent_sources import AgentSources, installed_sources
from kata.image.apt import Package, PrivateApt, contents, unpack
from kata.image.digests import sha256_of_file, sha256_of_parts, sha256_of_tree
from kata.image.errors import ImageError
from kata.image.guest_python import GuestPython
from kata.image.initrd import Contents
from kata.image.kept_folder import is_kept, keep
from kata.image.kernel_package import Kernel
from kata.image.manifest import (
    FileRecord,
    KernelRecord,
    Manifest,
    PackageRecord,
    ProtobufRecord,
    PythonRecord,
)
from kata.image.progress import Progress, Step, silent
from kata.image.selection import Selection, select_packages
from kata.image.selection import code_digest as selection_code

_log = logging.getLogger(__name__)

# In the folder of unpacked packages: which file came from which package.
_OWNERS = ".owners.json"

_ROOT_LAYOUT = "2"
"""What that folder holds beside the packages' files; another version is not found in a cache."""


def build(
    output_dir: str,
    cache_dir: str,
    progress: Progress = silent,
    *,
    sources: AgentSources | None = None,
) -> Manifest:
    """Build the guest's kernel and initrd and their manifest; return the manifest.

    Fetches into `cache_dir` what it lacks, and asks the distribution for news at most once a day.
    Returns at once if the files in `output_dir` are intact and made of the same inputs. `sources`
    replaces the installed agent. Two builds with one cache take turns. Raises `ImageError` if
    anything is missing or damaged; the files in `output_dir` are replaced at the very end.
    """
    sources = sources or installed_sources()
    os.makedirs(cache_dir, exist_ok=True)
    with _turn(cache_dir):
        apt = PrivateApt(os.path.join(cache_dir, "apt"))
        selection = _selection(apt, os.path.join(cache_dir, "selection.json"), progress)
        inputs = _inputs_digest(selection, sources)
        existing = _intact(output_dir, inputs)
        if existing is not None:
            return existing
        kernel, root = _unpacked(apt, selection, cache_dir, progress)
        filled = initrd.gather(
            GuestPython(root),
            sources.stage(os.path.join(cache_dir, "stage")),
            os.path.join(root, "usr/bin/busybox"),
            kernel.nodes(),
            os.path.join(cache_dir, "bytecode"),
            lambda done: progress(Step.COMPILE, done),
        )
        progress(Step.COMPILE, 1.0)
        with _output(output_dir) as new:
            shutil.copyfile(kernel.image, os.path.join(new, manifest.KERNEL))
            progress(Step.PACK, 0.5)
            with open(os.path.join(new, manifest.INITRD), "wb") as stream:
                cpio.write(stream, filled.nodes)
            used = (*selection.kernel, *_brought_in(filled, selection, root))
            made = _describe(new, inputs, sources, selection.distribution, kernel, filled, used)
            with open(os.path.join(new, manifest.MANIFEST), "wb") as stream:
                stream.write(made.encode())
        progress(Step.PACK, 1.0)
        return made


@contextlib.contextmanager
def _turn(cache_dir: str) -> Iterator[None]:
    with open(os.path.join(cache_dir, "lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _selection(apt: PrivateApt, path: str, progress: Progress) -> Selection:
    """Return today's packages, asking apt for them if that has not been done today.

    Without a network, the last selection is used and a warning says so. One that other code has
    made is made again.
    """
    known = _known_selection(path)
    is_known = known is not None and os.stat(path).st_mtime >= apt.updated
    if not apt.is_fresh:
        try:
            apt.update(lambda done: progress(Step.INDEX, done))
        except ImageError as error:
            if not is_known:
                raise
            _log.warning("building from yesterday's packages: %s", error)
        else:
            is_known = False
    if known is not None and is_known:
        return known
    selection = select_packages(apt)
    with open(f"{path}.new", "w", encoding="utf-8") as stream:
        json.dump({"code": selection_code(), "selection": asdict(selection)}, stream)
    os.replace(f"{path}.new", path)
    progress(Step.INDEX, 1.0)
    return selection


def _known_selection(path: str) -> Selection | None:
    try:
        with open(path, encoding="utf-8") as stream:
            plain = json.load(stream)
    except FileNotFoundError:
        return None
    if plain.get("code") != selection_code():
        return None
    return Selection.from_builtins(plain["selection"])


def _inputs_digest(selection: Selection, sources: AgentSources) -> str:
    """Digest everything that decides the image's bytes, this package's own code included."""
    builder = sha256_of_tree([os.path.dirname(os.path.abspath(__file__))], (".py",))
    packages = (package.sha256 for package in selection.packages)
    runtime = sources.protobuf_digests()
    parts = (builder, sources.digest(), *packages, *(f"{k} {v}" for k, v in runtime.items()))
    return sha256_of_parts(part.encode() for part in parts)


def _intact(output_dir: str, inputs: str) -> Manifest | None:
    """Return the manifest of the image in a directory if it is this build's, whole and unharmed."""
    try:
        existing = manifest.read(output_dir)
    except ImageError:
        return None
    if existing.inputs != inputs or manifest.differences(output_dir, existing):
        return None
    return existing


def _unpacked(
    apt: PrivateApt, selection: Selection, cache_dir: str, progress: Progress
) -> tuple[Kernel, str]:
    """Return the kernel and the folder of the other packages, fetching what is not unpacked yet."""
    debs = os.path.join(cache_dir, "packages")
    others = (*selection.python, selection.busybox)
    roots, root_key = os.path.join(cache_dir, "root"), _digest_of(others, _ROOT_LAYOUT)
    kernels = os.path.join(cache_dir, "kernel")
    kernel_key = _digest_of(selection.kernel, kernel_package.code_digest())
    missing = [
        *([] if is_kept(roots, root_key) else others),
        *([] if is_kept(kernels, kernel_key) else selection.kernel),
    ]
    apt.download(missing, debs, lambda done: progress(Step.DOWNLOAD, done))
    progress(Step.DOWNLOAD, 1.0)

    def unpack_others(folder: str) -> None:
        owners: dict[str, str] = {}
        for package, deb in zip(others, _paths(debs, others), strict=True):
            unpack(deb, folder)
            owners.update(dict.fromkeys(contents(deb), package.name))
        _merge_usr(folder)
        with open(os.path.join(folder, _OWNERS), "w", encoding="utf-8") as stream:
            json.dump(owners, stream)

    root = keep(roots, root_key, unpack_others)
    progress(Step.UNPACK, 0.2)
    kernel = keep(
        kernels,
        kernel_key,
        lambda folder: kernel_package.prepare(_paths(debs, selection.kernel), folder),
    )
    progress(Step.UNPACK, 1.0)
    return Kernel(kernel), root


def _paths(debs: str, packages: Iterable[Package]) -> list[str]:
    return [os.path.join(debs, package.file_name) for package in packages]


def _merge_usr(root: str) -> None:
    """Move what packages still bring in /bin, /lib, /lib64 and /sbin below /usr; leave links."""
    for name in ("bin", "lib", "lib64", "sbin"):
        old, merged = os.path.join(root, name), os.path.join(root, "usr", name)
        os.makedirs(merged, exist_ok=True)
        if os.path.isdir(old):
            shutil.copytree(old, merged, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
        os.symlink(f"usr/{name}", old)


def _digest_of(packages: Iterable[Package], code: str) -> str:
    return sha256_of_parts(part.encode() for part in (code, *(each.sha256 for each in packages)))


def _brought_in(filled: Contents, selection: Selection, root: str) -> Iterator[Package]:
    """Yield the packages, other than the kernel's, that files of the initrd come from."""
    with open(os.path.join(root, _OWNERS), encoding="utf-8") as stream:
        owners: dict[str, str] = json.load(stream)
    places = [*filled.nodes, *(path.removesuffix("c") for path in filled.nodes)]
    names = {owners[path] for path in places if path in owners}
    for package in (*selection.python, selection.busybox):
        if package.name in names:
            yield package


def _describe(
    folder: str,
    inputs: str,
    sources: AgentSources,
    distribution: str,
    kernel: Kernel,
    filled: Contents,
    used: Sequence[Package],
) -> Manifest:
    """Describe the image whose files lie in a folder."""
    return Manifest(
        schema=manifest.SCHEMA,
        inputs=inputs,
        distribution=distribution,
        architecture=used[0].architecture,
        kernel=KernelRecord(kernel.release, kernel.modules),
        python=PythonRecord(filled.python_version, filled.modules),
        agent=sources.digest(),
        protobuf=ProtobufRecord(
            sources.protobuf_version,
            {
                name: digest
                for name, digest in sources.protobuf_digests().items()
                if filled.holds(name)
            },
        ),
        packages=tuple(
            PackageRecord(each.name, each.version, each.architecture, each.sha256)
            for each in sorted(used, key=lambda package: package.name)
        ),
        files={
            name: FileRecord(os.stat(path).st_size, sha256_of_file(path))
            for name in (manifest.KERNEL, manifest.INITRD)
            for path in [os.path.join(folder, name)]
        },
    )


@contextlib.contextmanager
def _output(output_dir: str) -> Iterator[str]:
    """Yield a folder for new files; they replace the old ones if the body ends well.

    The old manifest goes first and the new one comes last, so none describes another's files.
    """
    os.makedirs(output_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".building-") as new:
        yield new
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(output_dir, manifest.MANIFEST))
        for name in (manifest.KERNEL, manifest.INITRD, manifest.MANIFEST):
            os.replace(os.path.join(new, name), os.path.join(output_dir, name))
