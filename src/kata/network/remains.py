"""What a dead shim may have left in its pod's network namespace, and its removal.

Tap devices are gone with their last descriptor; filters and macvtap devices stay with the pod's links.
Imports little, since `delete` runs it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from kata.host import netns
from rtnetlink import Netlink, NetlinkError

_SUFFIX = "_kata"
"""What the names of our devices end with."""


def exist(path: str) -> bool:
    """Tell whether something is left in the network namespace `path`, if that is still there."""
    try:
        if _is_host_s(path):
            return False
        with Netlink(path) as netlink:
            return bool(_removals(netlink))
    except OSError:
        return False


def remove(path: str) -> None:
    """Remove what is left; what is gone meanwhile is no error."""
    with suppress(OSError):
        if _is_host_s(path):
            return
        with Netlink(path) as netlink:
            for removal in _removals(netlink):
                with suppress(NetlinkError):
                    removal()


def _is_host_s(path: str) -> bool:
    """Tell whether a path leads to the host's namespace by now: no pod has that.

    /proc/PID/ns/net does when the number has become that of a process of the host.
    """
    return netns.is_own(path)


def _removals(netlink: Netlink) -> list[Callable[[], None]]:
    return [
        *(partial(netlink.delete_ingress, index) for index in netlink.ingresses()),
        *(
            partial(netlink.delete_link, link.index)
            for link in netlink.links()
            if link.kind == "macvtap" and link.name.endswith(_SUFFIX)
        ),
    ]
