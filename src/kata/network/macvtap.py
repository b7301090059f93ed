"""The model macvtap: on each link of the pod a device that takes all its frames.

In its mode "passthru" the link's own stack sees nothing, so its addresses can stay as CNI made them.
Its device is found in the sysfs of its namespace: the host's /dev may have another of that number.
"""

import os
import stat
from functools import partial

from kata.host import libc, netns
from rtnetlink import Link, Netlink

_KIND = "macvtap"


def connect(netlink: Netlink, link: Link, tap: str, queues: int) -> tuple[int, ...]:
    """Put a macvtap device called `tap` on a link and return a descriptor for each queue of it.

    Called in the link's network namespace.  Raises `OSError`; the link is as it was then.
    """
    disconnect(netlink, link)  # what a dead shim has left has no reader
    netlink.add_macvtap(tap, link.index)
    try:
        made = netlink.link(tap)
        netlink.set_link(made.index, mtu=link.mtu, up=True)
        return netns.inside("/proc/thread-self/ns/net", partial(_open, made, queues))
    except BaseException:
        disconnect(netlink, link)
        raise


def disconnect(netlink: Netlink, link: Link) -> None:
    """Remove the macvtap device that is on a link, if any."""
    for each in netlink.links():
        if each.kind == _KIND and each.parent == link.index:
            netlink.delete_link(each.index)


def _open(made: Link, queues: int) -> tuple[int, ...]:
    """Open a macvtap device; called by a thread that ends afterwards, for it leaves our mounts."""
    node = _node(made)
    opened: list[int] = []
    try:
        while len(opened) < queues:
            opened.append(os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except BaseException:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return tuple(opened)


def _node(made: Link) -> str:
    """Return a device node for a macvtap link; only the calling thread can see it."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("", "/", "", libc.MS_REC | libc.MS_SLAVE)
    libc.mount("sysfs", "/sys", "sysfs", libc.MS_RDONLY)
    with open(f"/sys/class/net/{made.name}/tap{made.index}/dev") as file:
        major, minor = map(int, file.read().split(":"))
    libc.mount("tmpfs", "/sys/kernel", "tmpfs", libc.MS_NOSUID)
    node = "/sys/kernel/tap"
    os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(major, minor))
    return node
