"""The Container Runtime Interface as messages, compiled from its definition at the first use.

Debian packages the definition (`api.proto`); protoc makes descriptors of it, which lie in the cache
under a hash of what they were made from. No code is generated: messages are made of descriptors.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from lab.command import run
from lab.debian import Suite
from lab.freshness import digest
from lab.paths import CACHE
from lab.progress import step

_SUITE: Final = "testing"
_PACKAGE: Final = "golang-github-kubernetes-cri-api-dev"
_DEFINITION: Final = "usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto"
# Options for one generator of Go code; their definition is in no package that we need otherwise.
_FOREIGN_OPTIONS: Final = "gogoproto"
NAMESPACE: Final = "runtime.v1"


def descriptors() -> bytes:
    """Return the compiled definition, a FileDescriptorSet; compiled anew only when it changed.

    Raises `LabError` when the package cannot be fetched or protoc is missing.
    """
    text = (Suite(_SUITE).unpack([_PACKAGE]) / _DEFINITION).read_text()
    kept = "\n".join(line for line in text.splitlines() if _FOREIGN_OPTIONS not in line)
    folder = CACHE / "cri" / digest(kept)[:12]
    compiled = folder / "api.descriptors"
    if not compiled.exists():
        with step("definition of the CRI"):
            _compile(kept, compiled)
    return compiled.read_bytes()


def _compile(text: str, compiled: Path) -> None:
    compiled.parent.mkdir(parents=True, exist_ok=True)
    (compiled.parent / "api.proto").write_text(text)
    partial = compiled.with_name(".partial")
    words = ["-m", "grpc_tools.protoc", f"-I{compiled.parent}", f"--descriptor_set_out={partial}"]
    run([sys.executable, *words, "api.proto"], remedy="grpcio-tools is missing; run `make setup`")
    partial.rename(compiled)


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors()).file:
        pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    return pool


@cache
def method(service: str, name: str) -> tuple[type[Message], type[Message]]:
    """Return the types of a method's request and response.

    Raises `KeyError` for a method that the definition does not have.
    """
    services = _pool().FindFileByName("api.proto").services_by_name  # type: ignore[no-untyped-call]
    found = services[service].methods_by_name[name]
    request, response = found.input_type, found.output_type
    return message_factory.GetMessageClass(request), message_factory.GetMessageClass(response)


def fill(kind: type[Message], content: dict[str, Any]) -> Message:
    """Return a message with the content, whose keys are the definition's names of fields.

    Raises `json_format.ParseError` for a name or a value that the definition does not have.
    """
    return json_format.ParseDict(content, kind())
