"""What the resident process does without, since there is one for every pod.

Libraries import modules for cases that are not ours: asyncio TLS, protobuf the implementation in
Python that the one in C replaces.  With what our own modules import later, that is 4 MiB of 20 and 20 ms of 92.
"""

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

ABSENT = (
    "typing_extensions",  # msgspec has what it needs from typing too
)
LATE = (
    "calendar",
    "google.protobuf.internal.python_message",
    "hashlib",
    "locale",
    "shutil",
)
"""Modules that are loaded when something of theirs is used.

Only those count that everybody imports whole: `from module import name` uses them at once.
"""

_turn = threading.Lock()


class _Late(ModuleType):
    """Stands in for a module until something of it is used.

    `importlib.util.LazyLoader` would do, if a second `import` did not have it load already.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        with _turn:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def reduce() -> None:
    """Have what follows import less; for a process of ours that has not imported asyncio yet."""
    modules: dict[str, Any] = sys.modules
    for name in ABSENT:
        modules.setdefault(name, None)  # how Python spells "not importable"
    for name in LATE:
        modules.setdefault(name, _Late(name))
    _import_asyncio_without_tls()


def _import_asyncio_without_tls() -> None:
    """Import asyncio as where Python was built without OpenSSL, which takes 1.2 MiB and 5 ms.

    asyncio is made for that; and nothing here speaks TLS.
    """
    if "ssl" in sys.modules:
        return
    modules: dict[str, Any] = sys.modules
    modules["ssl"] = None
    import asyncio  # noqa: F401

    # qemu.qmp cannot be imported without this name, which it uses in annotations only.
    modules["ssl"] = stub = ModuleType("ssl", "There is no TLS in this process.")
    vars(stub)["SSLContext"] = type("SSLContext", (), {})
