"""The list of what an import brings along, made by a program that imports nothing itself.

Arguments: the modules that the guest does without, joined with commas, and the folder to import
from besides the standard library. Imports the names on standard input and writes every loaded
module: its name, a tab, and its file if it has one.
"""

import sys

sys.path[:] = [*sys.path[1:], sys.argv[2]]
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # type: ignore[assignment]  # how Python spells "not importable"
for name in sys.stdin.read().split():
    __import__(name)
for name, module in sorted(sys.modules.items()):
    if module is not None and name != "__main__":
        sys.stdout.write(f"{name}\t{getattr(module, '__file__', None) or ''}\n")
