"""Bytes of ip(8), tc(8) and the kernel, both ways.

They were captured from iproute2 6.1 and Linux 6.18 on a little-endian machine.
"""

import sys
from socket import AF_INET, AF_INET6
from struct import Struct
from types import ModuleType

import pytest

from rtnetlink import (
    Address,
    Link,
    MessageError,
    Neighbour,
    NextHop,
    Route,
    Rule,
    address,
    link,
    message,
    neighbour,
    route,
    rule,
    traffic,
)

pytestmark = [
    pytest.mark.wire,
    pytest.mark.skipif(sys.byteorder == "big", reason="missing: a little-endian machine"),
]

IPV4, IPV6 = int(AF_INET), int(AF_INET6)
Value = Address | Route | Rule | Neighbour

MODULES: dict[type[Value], tuple[ModuleType, Struct]] = {
    Address: (address, Struct("=BBBBI")),
    Route: (route, Struct("=BBBBBBBBI")),
    Rule: (rule, Struct("=BBBBBBBBI")),
    Neighbour: (neighbour, Struct("=BxxxiHBB")),
}

# What is to be said, and what ip(8) says after the header.
REQUESTS = [
    pytest.param(
        Address(3, IPV4, "10.1.0.5", 24, broadcast="10.1.0.255"),
        "0218000003000000080002000a010005080004000a0100ff080001000a010005",
        id="ip address add 10.1.0.5/24 broadcast 10.1.0.255 dev v0",
    ),
    pytest.param(
        Address(3, IPV6, "fd01::5", 64, flags=address.IFA_F_NODAD),
        "0a4002000300000014000200fd01000000000000000000000000000514000100fd01000000000000"
        "0000000000000005",
        id="ip address add fd01::5/64 dev v0 nodad",
    ),
    pytest.param(
        Address(3, IPV4, "10.9.0.1", 32, peer="10.9.0.2"),
        "0220000003000000080002000a090001080001000a090002",
        id="ip address add 10.9.0.1 peer 10.9.0.2/32 dev v0",
    ),
    pytest.param(
        Address(3, IPV6, "fd09::1", 128, flags=address.IFA_F_NODAD, peer="fd09::2"),
        "0a8002000300000014000200fd09000000000000000000000000000114000100fd09000000000000"
        "0000000000000002",
        id="ip address add fd09::1 peer fd09::2/128 dev v0 nodad",
    ),
    pytest.param(
        Address(3, IPV4, "10.8.0.1", 16, flags=address.IFA_F_NOPREFIXROUTE),
        "0210000003000000080002000a0800010800080000020000080001000a080001",
        id="ip address add 10.8.0.1/16 dev v0 noprefixroute",
    ),
    pytest.param(
        Route(IPV4, gateway="10.1.0.1"),
        "02000000fe03000100000000080005000a010001",
        id="ip route add default via 10.1.0.1",
    ),
    pytest.param(
        Route(IPV4, "10.2.0.0/16", "10.1.0.1", 3, "10.1.0.5", 7, mtu=1300, metrics=((8, 1200),)),
        "02100000fe03000100000000080001000a020000080005000a010001080006000700000008000700"
        "0a010005080004000300000014000800080002001405000008000800b0040000",
        id="ip route add 10.2.0.0/16 via 10.1.0.1 dev v0 metric 7 mtu 1300 advmss 1200 src 10.1.0.5",
    ),
    pytest.param(
        Route(
            IPV4,
            "10.2.0.0/16",
            index=3,
            table=1000,
            scope=route.RT_SCOPE_LINK,
            protocol=route.RTPROT_STATIC,
        ),
        "021000000004fd0100000000080001000a02000008000f00e80300000800040003000000",
        id="ip route add 10.2.0.0/16 dev v0 scope link table 1000 proto static",
    ),
    pytest.param(
        Route(IPV4, "10.3.0.0/16", "fd01::9", 3),
        "02100000fe03000100000000080001000a030000160012000a00fd01000000000000000000000000"
        "000900000800040003000000",
        id="ip route add 10.3.0.0/16 via inet6 fd01::9 dev v0",
    ),
    pytest.param(
        Route(IPV4, "10.4.0.0/16", "192.168.9.9", 3, flags=route.RTNH_F_ONLINK),
        "02100000fe03000104000000080001000a04000008000500c0a809090800040003000000",
        id="ip route add 10.4.0.0/16 via 192.168.9.9 dev v0 onlink",
    ),
    pytest.param(
        Route(IPV4, "10.5.0.0/16", type=route.RTN_UNREACHABLE, tos=16),
        "02100010fe03000700000000080001000a050000",
        id="ip route add unreachable 10.5.0.0/16 tos 0x10",
    ),
    pytest.param(
        Route(
            IPV4,
            "10.6.0.0/16",
            next_hops=(
                NextHop(3, "10.1.0.1", 2),
                NextHop(2, weight=256),
                NextHop(2, "192.168.0.1", flags=route.RTNH_F_ONLINK),
            ),
        ),
        "02100000fe03000100000000080001000a0600002c0009001000000103000000080005000a010001"
        "080000ff02000000100004000200000008000500c0a80001",
        id="ip route add 10.6.0.0/16 nexthop via 10.1.0.1 dev v0 weight 2 nexthop dev v9 weight 256 nexthop via 192.168.0.1 dev v9 onlink",
    ),
    pytest.param(
        Route(IPV6, gateway="fd01::1", index=3, metric=5),
        "0a000000fe03000100000000140001000000000000000000000000000000000014000500fd010000"
        "00000000000000000000000108000600050000000800040003000000",
        id="ip -6 route add default via fd01::1 dev v0 metric 5",
    ),
    pytest.param(
        Route(IPV6, "fd05::/64", next_hops=(NextHop(3, "fd01::1", 2), NextHop(3, "fd01::2"))),
        "0a400000fe0300010000000014000100fd0500000000000000000000000000003c0009001c000001"
        "0300000014000500fd0100000000000000000000000000011c0000000300000014000500fd010000"
        "000000000000000000000002",
        id="ip -6 route add fd05::/64 nexthop via fd01::1 dev v0 weight 2 nexthop via fd01::2 dev v0",
    ),
    pytest.param(
        Route(IPV6, "fd06::/64", table=77, type=route.RTN_BLACKHOLE),
        "0a4000004d0300060000000014000100fd060000000000000000000000000000",
        id="ip -6 route add blackhole fd06::/64 table 77",
    ),
    pytest.param(
        Rule(IPV4, 50, 100, source="10.1.0.5/32"),
        "020020006400000100000000080002000a0100050800060032000000",
        id="ip rule add from 10.1.0.5/32 table 100 pref 50",
    ),
    pytest.param(
        Rule(
            IPV4,
            51,
            1000,
            mark=0x10,
            mask=0xFF,
            iif="v0",
            oif="v9",
            tos=16,
            flags=rule.FIB_RULE_INVERT,
            suppress_prefix=0,
            uids=(0, 5),
            ip_protocol=6,
            source_ports=(80, 90),
            destination_ports=(443, 443),
            protocol=3,
        ),
        "02000010000000010200000008000a001000000008001000ff000000070003007630000007001100"
        "7639000005001600060000000800170050005a0008001800bb01bb010c0014000000000005000000"
        "08000f00e8030000080006003300000008000e00000000000500150003000000",
        id="ip rule add not fwmark 0x10/0xff iif v0 oif v9 tos 0x10 ipproto tcp sport 80-90 dport 443 uidrange 0-5 table 1000 pref 51 suppress_prefixlength 0 protocol boot",
    ),
    pytest.param(
        Rule(IPV6, 52, 0, rule.FR_ACT_UNREACHABLE, destination="fd07::/64"),
        "0a400000000000070000000014000100fd0700000000000000000000000000000800060034000000",
        id="ip -6 rule add to fd07::/64 unreachable pref 52",
    ),
    pytest.param(
        Rule(IPV4, 53, 0, l3mdev=True),
        "02000000000000010000000005001300010000000800060035000000",
        id="ip rule add l3mdev pref 53",
    ),
    pytest.param(
        Rule(IPV4, 10, 0, rule.FR_ACT_GOTO, goto=53),
        "020000000000000200000000080006000a0000000800040035000000",
        id="ip rule add pref 10 goto 53",
    ),
    pytest.param(
        Neighbour(3, IPV4, "10.1.0.9", "02:00:00:00:00:09"),
        "020000000300000080000000080001000a0100090a0002000200000000090000",
        id="ip neighbour replace 10.1.0.9 lladdr 02:00:00:00:00:09 dev v0 nud permanent",
    ),
    pytest.param(
        Neighbour(3, IPV6, "fd01::9", "02:00:00:00:00:09", flags=neighbour.NTF_ROUTER),
        "0a000000030000008000800014000100fd0100000000000000000000000000090a0002000200000000090000",
        id="ip neighbour replace fd01::9 lladdr 02:00:00:00:00:09 dev v0 nud permanent router",
    ),
]

# What the kernel says of the same.
ANSWERS = [
    pytest.param(
        Address(3, IPV4, "10.1.0.5", 24, flags=address.IFA_F_PERMANENT, broadcast="10.1.0.255"),
        "0218800003000000080001000a010005080002000a010005080004000a0100ff0700030076300000"
        "080008008000000014000600ffffffffffffffffa96b0100a96b0100",
        id="10.1.0.5/24 of link 3",
    ),
    pytest.param(
        Address(
            3, IPV4, "10.8.0.1", 16, flags=address.IFA_F_PERMANENT | address.IFA_F_NOPREFIXROUTE
        ),
        "0210800003000000080001000a080001080002000a08000107000300763000000800080080020000"
        "14000600ffffffffffffffffae6b0100ae6b0100",
        id="10.8.0.1/16 of link 3",
    ),
    pytest.param(
        Address(
            3,
            IPV6,
            "fd09::1",
            128,
            flags=address.IFA_F_PERMANENT | address.IFA_F_NODAD,
            peer="fd09::2",
        ),
        "0a8082000300000014000200fd09000000000000000000000000000114000100fd09000000000000"
        "000000000000000214000600ffffffffffffffffae6b0100ae6b01000800080082000000",
        id="fd09::1/128 peer fd09::2 of link 3",
    ),
    pytest.param(
        Route(
            IPV4,
            "10.2.0.0/16",
            index=3,
            table=1000,
            scope=route.RT_SCOPE_LINK,
            protocol=route.RTPROT_STATIC,
        ),
        "02100000fc04fd010000000008000f00e8030000080001000a0200000800040003000000",
        id="10.2.0.0/16 dev 3 table 1000",
    ),
    pytest.param(
        Route(IPV4, gateway="10.1.0.1", index=3),
        "02000000fe0300010000000008000f00fe000000080005000a0100010800040003000000",
        id="default via 10.1.0.1 dev 3",
    ),
    pytest.param(
        Route(
            IPV4,
            "10.1.0.0/24",
            index=3,
            source="10.1.0.5",
            scope=route.RT_SCOPE_LINK,
            protocol=route.RTPROT_KERNEL,
        ),
        "02180000fe02fd010000000008000f00fe000000080001000a010000080007000a0100050800040003000000",
        id="10.1.0.0/24 dev 3 src 10.1.0.5",
    ),
    pytest.param(
        Route(
            IPV6,
            "fd05::/64",
            metric=1024,
            next_hops=(NextHop(3, "fd01::1", 2), NextHop(3, "fd01::2")),
        ),
        "0a400000fe0300010000000008000f00fe00000014000100fd050000000000000000000000000000"
        "08000600000400003c0009001c0000010300000014000500fd010000000000000000000000000001"
        "1c0000000300000014000500fd01000000000000000000000000000224000c000000000000000000"
        "0000000000000000000000000000000000000000000000000500140000000000",
        id="fd05::/64 nexthop via fd01::1 dev 3 weight 2 nexthop via fd01::2 dev 3 weight 1 metric 1024",
    ),
    pytest.param(
        Neighbour(3, IPV4, "10.1.0.9", "02:00:00:00:00:09"),
        "020000000300000080000001080001000a0100090a00020002000000000900000800040000000000"
        "1400030008000000080000000800000000000000",
        id="10.1.0.9 dev 3 lladdr 02:00:00:00:00:09",
    ),
    pytest.param(
        Rule(IPV4, 10, 0, rule.FR_ACT_GOTO, goto=53),
        "02000000000000020000000008000f000000000008000e00ffffffff050015000000000008000600"
        "0a0000000800040035000000",
        id="10: from all action 2",
    ),
    pytest.param(
        Rule(
            IPV4,
            51,
            1000,
            mark=0x10,
            mask=0xFF,
            iif="v0",
            oif="v9",
            tos=16,
            flags=rule.FIB_RULE_INVERT,
            suppress_prefix=0,
            uids=(0, 5),
            ip_protocol=6,
            source_ports=(80, 90),
            destination_ports=(443, 443),
            protocol=3,
        ),
        "02000010fc0000010200000008000f00e803000008000e0000000000050015000300000007000300"
        "763000000700110076390000080006003300000008000a001000000008001000ff0000000c001400"
        "00000000050000000800170050005a0008001800bb01bb0106001d00ffff00000500160006000000",
        id="not 51: from all fwmark 0x10/0xff iif v0 oif v9 lookup 1000",
    ),
]


@pytest.mark.parametrize(("value", "captured"), REQUESTS)
def test_we_say_what_ip_says(value: Value, captured: str) -> None:
    """The same structure and the same attributes, in whatever order."""
    module, layout = MODULES[type(value)]
    fixed, attributes = message.unpack(layout, module.encode(value))
    said_by_ip, attributes_of_ip = message.unpack(layout, bytes.fromhex(captured))
    if isinstance(value, Route) and not value.destination:
        attributes_of_ip.pop(1, None)  # ip writes out that everywhere is ::/0
    assert (fixed, attributes) == (said_by_ip, attributes_of_ip)


@pytest.mark.parametrize(("value", "captured"), [*REQUESTS, *ANSWERS])
def test_we_understand(value: Value, captured: str) -> None:
    module, _ = MODULES[type(value)]
    assert module.decode(bytes.fromhex(captured)) == value


@pytest.mark.parametrize(("value", "captured"), [*REQUESTS, *ANSWERS])
def test_what_is_cut_short_is_an_error_or_less(value: Value, captured: str) -> None:
    """No cut raises anything else, and none inside the fixed structure passes."""
    module, layout = MODULES[type(value)]
    whole = bytes.fromhex(captured)
    for length in range(len(whole)):
        try:
            module.decode(whole[:length])
        except MessageError:
            continue
        assert length >= layout.size


# Counters and settings that nobody here reads are left out, as whole attributes.
LINK = Link(2, "v9", "veth", "02:00:00:00:00:09", 1500, 0x11043, parent=3)
LINK_BYTES = bytes.fromhex(
    "00000100020000004310010000000000070003007639000008000d00e803000008000400dc050000"
    "0a00010002000000000900000a000200ffffffffffff000010001200090001007665746800000000"
    "0800050003000000"
)


def test_a_link_is_understood() -> None:
    assert link.decode(LINK_BYTES) == LINK
    assert LINK.up
    assert not LINK.loopback


@pytest.mark.parametrize(
    ("payload", "captured"),
    [
        (
            link.change(3, mtu=1400),
            "000000000300000000000000000000000800040078050000",
        ),
        (
            link.change(2, up=False),
            "00000000020000000000000001000000",
        ),
        (
            link.change(2, up=True),
            "00000000020000000100000001000000",
        ),
        (
            link.change(2, name="v9"),
            "000000000200000000000000000000000700030076390000",
        ),
        (
            link.change(2, mac="02:00:00:00:00:09"),
            "000000000200000000000000000000000a0001000200000000090000",
        ),
    ],
)
def test_links_are_changed_as_ip_changes_them(payload: bytes, captured: str) -> None:
    assert payload.hex() == captured


def test_ingress_is_that_of_tc() -> None:
    assert (
        traffic.ingress(3).hex()
        == "00000000030000000000fffff1ffffff000000000c000100696e677265737300"
    )


REDIRECTION_OF_TC = bytes.fromhex(
    "0000000003000000000000000000ffff000301000800010075333200600002003800070034000100"
    "0b0001006d6972726564000024000280200002000000000000000000040000000000000000000000"
    "01000000040000002400050001000100000000000000000000000000000000000000000000000000"
    "00000000"
)


def tree(attributes: dict[int, bytes], nests: dict[int, object]) -> dict[int, object]:
    """Read attributes in attributes where a table of their numbers says so."""
    return {
        kind: tree(message.attributes(value), inner)
        if isinstance(inner := nests.get(kind), dict)
        else value.rstrip(b"\0")
        for kind, value in attributes.items()
    }


def test_redirection_is_that_of_tc() -> None:
    layout = Struct("=BxxxiIII")
    nests: dict[int, object] = {2: {7: {1: {2: {}}}}}
    fixed, attributes = message.unpack(layout, traffic.redirection(3, 4))
    fixed_of_tc, attributes_of_tc = message.unpack(layout, REDIRECTION_OF_TC)
    assert fixed == fixed_of_tc
    assert tree(attributes, nests) == tree(attributes_of_tc, nests)


def test_a_refusal_is_understood() -> None:
    """With the kernel's own words, after the header of a request that is not given back whole."""
    datagram = bytes.fromhex(
        "44000000020000034d000000b83200009bffffff2c000000180005064d0000000000000020000100"
        "4e657874686f702068617320696e76616c6964206761746577617900"
    )
    (refusal,) = message.decode(datagram)
    assert refusal.sequence == 77
    assert message.acknowledgement(refusal) == (101, "Nexthop has invalid gateway")
