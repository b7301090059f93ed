"""The kernel's network by rtnetlink(7): links, addresses, routes, neighbours, rules, redirection.

Knows nothing of containers. In rings, each importing only the ones before it:

- `message` and `internet`: bytes to values and back, without a socket;
- `link`, `address`, `route`, `neighbour`, `rule`, `traffic`: an object each, and its bytes;
- `endpoint` and `namespace`: the socket, and one in another network namespace;
- `netlink`, what can be asked, and `events`, what is told.
"""

from rtnetlink.address import Address
from rtnetlink.errors import MessageError, NetlinkError
from rtnetlink.events import LinkEvents
from rtnetlink.link import Link
from rtnetlink.neighbour import Neighbour
from rtnetlink.netlink import Netlink
from rtnetlink.route import NextHop, Route
from rtnetlink.rule import Rule

__all__ = [
    "Address",
    "Link",
    "LinkEvents",
    "MessageError",
    "Neighbour",
    "Netlink",
    "NetlinkError",
    "NextHop",
    "Route",
    "Rule",
]
