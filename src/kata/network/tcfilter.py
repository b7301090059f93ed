"""The default model: a tap device beside each link of the pod, each of which gets the other's frames.

The link stays as CNI made it; only its ingress is taken away from the host's own stack.  tc(8),
tc-u32(8), tc-mirred(8).
"""

import os
from contextlib import suppress

from kata.host.tap import open_tap
from rtnetlink import Link, Netlink, NetlinkError


def connect(netlink: Netlink, link: Link, tap: str, queues: int) -> tuple[int, ...]:
    """Connect a link with a new tap device and return a descriptor for each queue of it.

    Called in the link's network namespace, with a `netlink` of it.  Raises `OSError`; the link is as
    it was then.
    """
    descriptors = open_tap(tap, queues)
    try:
        made = netlink.link(tap)
        netlink.set_link(made.index, mtu=link.mtu, up=True)
        netlink.add_ingress(made.index)
        netlink.redirect(made.index, link.index)
        disconnect(netlink, link)  # what a dead shim has left leads nowhere
        netlink.add_ingress(link.index)
        netlink.redirect(link.index, made.index)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        disconnect(netlink, link)
        raise
    return descriptors


def disconnect(netlink: Netlink, link: Link) -> None:
    """Give a link back to the host's stack; the tap device goes with its last descriptor."""
    with suppress(NetlinkError):  # there is nothing on it, or it has gone
        netlink.delete_ingress(link.index)
