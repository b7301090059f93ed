"""A Pod manifest as the values that the lab runs, as far as kubelet's part in it goes.

A field that is not understood here is refused by its path: what a manifest says and nobody does would
be a lie. Formats: Kubernetes' core/v1 Pod and its quantities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from lab.command import LabError
from lab.pod import Container, Pod, Port, Resources

_PERIOD_US: Final = 100_000
_MEMORY_UNITS: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "k": 1000, "M": 10**6}


class ManifestError(LabError):
    """A manifest that cannot be run; the text has the path of the field."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A pod, the handler that runs it, and its containers in order."""

    handler: str
    pod: Pod
    containers: tuple[Container, ...]
    ports: tuple[int, ...]


class _Fields:
    """The fields of one object; those that nobody has taken when it is closed are refused."""

    def __init__(self, path: str, content: object) -> None:
        if not isinstance(content, Mapping):
            raise ManifestError(f"{path or 'the manifest'} is no object")
        self._path = path
        self._left = dict(content)

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def fields(self, name: str) -> "_Fields":
        return _Fields(f"{self._path}.{name}".lstrip("."), self.take(name, {}))

    def each(self, name: str) -> list["_Fields"]:
        path = f"{self._path}.{name}".lstrip(".")
        return [_Fields(f"{path}[{at}]", item) for at, item in enumerate(self.take(name, []))]

    def close(self) -> None:
        if self._left:
            names = ", ".join(f"{self._path}.{name}".lstrip(".") for name in self._left)
            raise ManifestError(f"not understood here: {names}; take it out of the manifest")


def load(path: Path) -> Manifest:
    """Return the pod of a manifest; raises `ManifestError` and `OSError`."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: {error}") from error
    root = _Fields("", content)
    if (root.take("apiVersion"), root.take("kind")) != ("v1", "Pod"):
        raise ManifestError(f"{path}: apiVersion: v1 and kind: Pod are understood here")
    metadata, spec = root.fields("metadata"), root.fields("spec")
    pod = Pod(
        name=metadata.take("name", ""),
        namespace=metadata.take("namespace", "default"),
        annotations=metadata.take("annotations", {}),
    )
    handler = spec.take("runtimeClassName", "runc")
    made = [_container(fields) for fields in spec.each("containers")]
    for fields in (root, metadata, spec):
        fields.close()
    return Manifest(
        handler,
        pod,
        tuple(container for container, _ in made),
        tuple(port.container_port for _, ports in made for port in ports),
    )


def _container(fields: _Fields) -> tuple[Container, list[Port]]:
    ports = []
    for port in fields.each("ports"):
        ports.append(Port(port.take("containerPort"), port.take("hostPort", 0)))
        port.close()
    resources = fields.fields("resources")
    container = Container(
        name=fields.take("name", "main"),
        image=fields.take("image"),
        command=fields.take("command", []),
        args=fields.take("args", []),
        env={each.take("name"): each.take("value", "") for each in fields.each("env")},
        resources=_limits(resources.fields("limits")),
    )
    resources.close()
    fields.close()
    return container, ports


def _limits(limits: _Fields) -> Resources:
    cpu, memory = limits.take("cpu"), limits.take("memory")
    limits.close()
    thousandths = 0
    if cpu is not None:
        text = str(cpu)
        thousandths = int(text[:-1]) if text.endswith("m") else round(float(text) * 1000)
    return Resources(
        cpu_period=_PERIOD_US if cpu is not None else 0,
        cpu_quota=_PERIOD_US * thousandths // 1000,
        cpu_shares=1024 * thousandths // 1000,
        memory=_bytes(str(memory)) if memory is not None else 0,
    )


def _bytes(quantity: str) -> int:
    for unit, factor in _MEMORY_UNITS.items():
        if quantity.endswith(unit):
            return int(quantity.removesuffix(unit)) * factor
    return int(quantity)
