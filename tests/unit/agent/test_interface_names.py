"""Names of interfaces, while others appear: the kernel gives each newcomer the first free name."""

import errno
import os
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from kata_agent import network
from rtnetlink import Netlink, NetlinkError

pytestmark = pytest.mark.unit


@dataclass
class _Link:
    index: int
    name: str
    mac: str = ""
    up: bool = False


@dataclass
class _Kernel:
    """Links by their names, with a newcomer after each of the first requests."""

    names: dict[int, str]
    to_come: list[int] = field(default_factory=list)

    def links(self) -> list[_Link]:
        found = [_Link(index, name) for index, name in self.names.items()]
        self._let_one_come()
        return found

    def set_link(self, index: int, **changes: Any) -> None:
        if name := changes.get("name"):
            if name in self.names.values():
                raise NetlinkError(errno.EEXIST, os.strerror(errno.EEXIST))
            self.names[index] = name
        self._let_one_come()

    def _let_one_come(self) -> None:
        if self.to_come:
            free = (f"eth{number}" for number in range(100))
            name = next(name for name in free if name not in self.names.values())
            self.names[self.to_come.pop(0)] = name


@pytest.mark.parametrize("later", [[], [4], [4, 5], [4, 5, 6, 7]])
def test_a_link_gets_its_name_whoever_comes_meanwhile(later: list[int]) -> None:
    kernel = _Kernel({1: "lo", 2: "eth0", 3: "eth1"}, list(later))
    wanted = {2: "eth2", 3: "eth0", 4: "eth1"}
    for index in [2, 3, *([4] if later else [])]:
        link = cast("Any", _Link(index, kernel.names[index]))
        network._rename(cast("Netlink", kernel), link, wanted[index])
        assert kernel.names[index] == wanted[index]
    assert len(set(kernel.names.values())) == len(kernel.names)
