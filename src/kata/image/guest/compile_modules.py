"""The compiler of the guest's modules: from sources to sourceless byte code, reproducibly.

Reads lines of three tab-separated paths from standard input: the source, its name inside the
guest, and the file to write. Writes a line to standard output for each one that is done. Ends
with status 1, naming the source on standard error, at the first that cannot be compiled.
"""

import importlib.util
import marshal
import os
import sys

# PEP 552: bit 0 says that the hash of the source follows, an unset bit 1 that nobody checks it.
UNCHECKED_HASH = (1).to_bytes(4, "little")
# Asserts and docstrings are of no use in a guest; without them modules load faster.
OPTIMIZE = 2


def compile_one(source_path: str, guest_path: str, target: str) -> None:
    """Compile one module. Raises `OSError`, `SyntaxError` or `ValueError`; leaves no half file."""
    with open(source_path, "rb") as stream:
        source = stream.read()
    code = compile(source, guest_path, "exec", dont_inherit=True, optimize=OPTIMIZE)
    parts = (
        importlib.util.MAGIC_NUMBER,
        UNCHECKED_HASH,
        importlib.util.source_hash(source),
        marshal.dumps(code),
    )
    partial = f"{target}.partial"
    with open(partial, "wb") as stream:
        stream.write(b"".join(parts))
    os.replace(partial, target)


def main() -> int:
    """Compile each line's module in a child of its own.

    marshal marks objects that are referenced from elsewhere in the process, so the bytes depend
    on what was compiled before. A fresh copy of the same process makes them depend on the source.
    """
    for line in sys.stdin:
        source, guest, target = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            try:
                compile_one(source, guest, target)
            except (OSError, SyntaxError, ValueError) as error:
                os.write(2, f"{source}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return 1
        os.write(1, b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
