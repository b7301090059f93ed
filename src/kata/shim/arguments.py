"""The command line of a shim, as containerd writes it: Go flags, then one action word.

No argument parser of the standard library reads Go's `-flag value`, and importing one would cost
every start more than the rest of this package.
"""

from typing import NamedTuple

_VALUED = ("namespace", "address", "publish-binary", "id", "bundle")


class ArgumentError(Exception):
    """A command line that no containerd writes; the text says what is wrong."""


class Arguments(NamedTuple):
    """What containerd asks of the shim."""

    namespace: str = ""
    address: str = ""
    publish_binary: str = "containerd"
    id: str = ""
    bundle: str = ""
    debug: bool = False
    info: bool = False
    version: bool = False
    help: bool = False
    action: str = ""


def parse(words: list[str]) -> Arguments:
    """Read the words after the program's name; raises `ArgumentError`."""
    values: dict[str, str | bool] = {}
    rest = iter(words)
    action = ""
    for word in rest:
        if not word.startswith("-"):
            if action:
                raise ArgumentError(f"two actions, {action} and {word}; give one")
            action = word
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name in _VALUED:
            if not equals:
                try:
                    value = next(rest)
                except StopIteration:
                    raise ArgumentError(f"-{name} needs a value") from None
            values[name.replace("-", "_")] = value
        elif name in ("debug", "info"):
            values[name] = value != "false"
        elif name in ("v", "version"):
            values["version"] = True
        elif name in ("h", "help"):
            values["help"] = True
        else:
            raise ArgumentError(f"unknown flag {word}; see -help")
    return Arguments(**values, action=action)  # type: ignore[arg-type]
