#!/usr/bin/env python3
"""Generator of the protobuf modules of kata_api.

Compiles every .proto file below this folder to a `_pb2.py` and a `_pb2.pyi` at the same relative path
below the output folder (`src` unless one is given). Needs `grpcio-tools`, which brings its own protoc;
its release fixes the oldest protobuf runtime that can load the result (1.78: protobuf 6.31).

    python proto/generate.py [output folder]
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
SOURCE_ROOT = PROTO_ROOT.parent / "src"


def sources() -> list[Path]:
    """Return every .proto file, relative to the root that imports are resolved against, sorted."""
    return sorted(path.relative_to(PROTO_ROOT) for path in PROTO_ROOT.rglob("*.proto"))


def generated() -> list[Path]:
    """Return the modules and stubs that `sources` become, relative to the output folder."""
    stems = [path.with_name(f"{path.stem}_pb2") for path in sources()]
    return [stem.with_suffix(suffix) for stem in stems for suffix in (".py", ".pyi")]


def strict(stub: str) -> str:
    """Return the stub in a form that `mypy --strict` takes.

    protoc leaves two faults: mappings without type arguments, and constructors whose argument types
    are shadowed when a field has the name of its own message type (`Process Process = 2`).
    """
    messages = set(re.findall(r"^class (\w+)\(_message\.Message\)", stub, re.MULTILINE))
    shadowed = {
        name for name in re.findall(r"^    (\w+): ", stub, re.MULTILINE) if name in messages
    }

    def constructor(line: re.Match[str]) -> str:
        text = re.sub(r"_Mapping\b(?!\[)", "_Mapping[str, _Any]", line[0])
        return re.sub(r"_Union\[(\w+), ", lambda m: f"_Union[{aliased(m[1])}, ", text)

    def aliased(name: str) -> str:
        return f"_{name}" if name in shadowed else name

    stub = re.sub(r"^    (    )*def __init__.*$", constructor, stub, flags=re.MULTILINE)
    stub = re.sub(
        r"^from typing import ", "from typing import Any as _Any, ", stub, flags=re.MULTILINE
    )
    return stub + "".join(f"\n_{name} = {name}\n" for name in sorted(shadowed))


def generate(output: Path) -> None:
    """Write the modules and stubs of all sources below `output`.

    Raises `subprocess.CalledProcessError` when protoc refuses a source; protoc has then said why on
    standard error and nothing is written.
    """
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO_ROOT}"]
    targets = [f"--python_out={output}", f"--pyi_out={output}"]
    subprocess.run([*protoc, *targets, *map(str, sources())], check=True)
    for path in generated():
        if path.suffix == ".pyi":
            stub = output / path
            stub.write_text(strict(stub.read_text()))


if __name__ == "__main__":
    if importlib.util.find_spec("grpc_tools") is None:
        sys.exit("grpcio-tools is missing; install the extra `dev` of this project")
    generate(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SOURCE_ROOT)
