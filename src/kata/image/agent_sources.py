"""Our side of the guest: the agent's packages and the protobuf runtime, as installed here."""

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass

from kata.image.digests import sha256_of_file, sha256_of_tree
from kata.image.errors import ImageError
from kata.image.guest_python import Program

# The agent's package first: all its modules go into the guest, of the others what it imports.
_OWN = ("kata_agent", "ttrpc", "rtnetlink", "kata_api")


@dataclass(frozen=True, slots=True)
class AgentSources:
    """The folders of the guest's own packages, and the files of the protobuf runtime.

    `protobuf_files` are paths below `protobuf_home`, the folder that it is installed in.
    """

    packages: tuple[str, ...]
    protobuf_home: str
    protobuf_files: tuple[str, ...]
    protobuf_version: str

    def digest(self) -> str:
        """Return the SHA-256 of all sources of the guest's own packages."""
        return sha256_of_tree(self.packages, (".py",))

    def protobuf_digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file of the protobuf runtime."""
        return {
            name: sha256_of_file(os.path.join(self.protobuf_home, name))
            for name in self.protobuf_files
        }

    def stage(self, folder: str) -> Program:
        """Link the packages, and nothing else that is installed beside them, into a new folder.

        What was in that folder is removed first. Raises `ImageError` if the agent has no `main`.
        """
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "google"))
        for package in self.packages:
            os.symlink(package, os.path.join(folder, os.path.basename(package)))
        for name in ("protobuf", "_upb"):
            home = os.path.join(self.protobuf_home, "google", name)
            os.symlink(home, os.path.join(folder, "google", name))
        agent = _modules_of(self.packages[0])
        if "kata_agent.main" not in agent:
            raise ImageError(
                f"{self.packages[0]} has no module main", "install kata-containers whole"
            )
        return Program(
            path=os.path.abspath(folder),
            seeds=agent,
            own=(*(os.path.basename(package) for package in self.packages), "google"),
        )


def installed_sources() -> AgentSources:
    """Find the packages where this process would import them from, without importing them.

    Raises `ImageError` if one is not installed, or if protobuf is one without the extension that
    every Python of the stable ABI can load.
    """
    distribution = importlib.metadata.distribution("protobuf")
    installed = sorted(str(path) for path in distribution.files or ())
    files = tuple(
        name
        for name in installed
        if name.startswith("google/") and name.endswith((".py", ".abi3.so"))
    )
    if not any(name.endswith(".abi3.so") for name in files):
        raise ImageError(
            "the installed protobuf has no abi3 extension, so the guest's Python cannot load it",
            "install protobuf from its manylinux wheel",
        )
    return AgentSources(
        packages=tuple(_package_folder(name) for name in _OWN),
        protobuf_home=os.path.abspath(str(distribution.locate_file(""))),
        protobuf_files=files,
        protobuf_version=distribution.version,
    )


def _package_folder(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImageError(f"the package {name} is not installed", "install kata-containers whole")
    return os.path.abspath(next(iter(spec.submodule_search_locations)))


def _modules_of(package: str) -> tuple[str, ...]:
    """Name all modules of a package, also those that are only imported by a computed name."""
    top = os.path.dirname(package)
    found = []
    for folder, _, names in os.walk(package):
        prefix = os.path.relpath(folder, top).replace("/", ".")
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending == ".py" and stem != "__main__":
                found.append(prefix if stem == "__init__" else f"{prefix}.{stem}")
    return tuple(sorted(found))
