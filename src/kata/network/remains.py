"""What a dead shim may have left in its pod's network namespace, and its removal.

Tap devices are gone with their last descriptor; filters and macvtap devices stay with the pod's links.
Imports little, since `delete` runs it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from rtnetlink import Netlink, NetlinkError

_SUFFIX = "_kata"
"""What the names of our devices end with."""


def exist(path: str) -> bool:
    """Tell whether something is left in the network namespace `path`, if that is still there."""
    try:
        with Netlink(path) as netlink:
            return bool(_removals(netlink))
    except OSError:
        return False


def remove(path: str) -> None:
    """Remove what is left; what is gone meanwhile is no error."""
    with suppress(OSError), Netlink(path) as netlink:
        for removal in _removals(netlink):
            with suppress(NetlinkError):
                removal()


def _removals(netlink: Netlink) -> list[Callable[[], None]]:
    return [
        *(partial(netlink.delete_ingress, index) for index in netlink.ingresses()),
        *(
            partial(netlink.delete_link, link.index)
            for link in netlink.links()
            if link.kind == "macvtap" and link.name.endswith(_SUFFIX)
        ),
    ]
