"""Messages and attributes, for values and bytes of every kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtnetlink import (
    Address,
    Link,
    MessageError,
    Neighbour,
    NetlinkError,
    NextHop,
    Route,
    Rule,
    address,
    internet,
    link,
    message,
    neighbour,
    route,
    rule,
    traffic,
)
from rtnetlink.message import Message

pytestmark = pytest.mark.wire

BYTE, SHORT, WORD = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
INDEX = st.integers(1, (1 << 31) - 1)
FAMILY = st.sampled_from([int(AF_INET), int(AF_INET6)])
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda name: len(name.encode()) <= 15
)
MAC = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))
RANGE = st.tuples(SHORT, SHORT)


def addresses_of(family: int) -> st.SearchStrategy[str]:
    size = internet.WIDTH[family] // 8
    return st.binary(min_size=size, max_size=size).map(lambda raw: inet_ntop(family, raw))


def networks_of(family: int) -> st.SearchStrategy[str]:
    lengths = st.integers(1, internet.WIDTH[family])
    return st.builds("{}/{}".format, addresses_of(family), lengths) | st.just("")


@st.composite
def links(draw: st.DrawFn) -> Link:
    kind = draw(st.sampled_from(["", "veth", "macvlan"]))
    numbers = draw(st.tuples(WORD, WORD, WORD, WORD))
    return Link(draw(INDEX), draw(NAME), kind, draw(MAC), *numbers)


@st.composite
def some_addresses(draw: st.DrawFn) -> Address:
    family = draw(FAMILY)
    own, peer = draw(st.tuples(*[addresses_of(family)] * 2))
    return Address(
        draw(INDEX),
        family,
        own,
        draw(st.integers(0, internet.WIDTH[family])),
        draw(BYTE),
        draw(WORD),
        draw(st.just("") | addresses_of(family)) if family == AF_INET else "",
        draw(st.sampled_from(["", peer if peer != own else ""])),
    )


@st.composite
def routes(draw: st.DrawFn) -> Route:
    family = draw(FAMILY)
    gateways = st.just("") | addresses_of(int(AF_INET)) | addresses_of(int(AF_INET6))
    hops = st.builds(NextHop, INDEX, gateways, st.integers(1, 256), BYTE)
    others = st.sets(st.integers(1, 20).filter(lambda number: number not in (2, 16)))
    return Route(
        family,
        draw(networks_of(family)),
        draw(gateways),
        draw(INDEX | st.just(0)),
        draw(st.just("") | addresses_of(family)),
        *draw(st.tuples(WORD, st.integers(1, (1 << 32) - 1), BYTE, BYTE, BYTE, WORD, WORD)),
        tuple(draw(st.lists(hops, max_size=4))),
        draw(BYTE),
        tuple((number, draw(WORD)) for number in sorted(draw(others))),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    family = draw(FAMILY)
    return Rule(
        family,
        *draw(st.tuples(WORD, WORD, BYTE)),
        *draw(st.tuples(*[networks_of(family)] * 2)),
        *draw(st.tuples(WORD, WORD)),
        *draw(st.tuples(*[st.just("") | NAME] * 2)),
        *draw(st.tuples(BYTE, WORD, WORD)),
        draw(st.none() | st.integers(0, 128)),
        draw(st.none() | st.tuples(WORD, WORD)),
        draw(BYTE),
        *draw(st.tuples(*[st.none() | RANGE] * 2)),
        draw(st.booleans()),
        draw(BYTE),
    )


@st.composite
def neighbours(draw: st.DrawFn) -> Neighbour:
    family = draw(FAMILY)
    return Neighbour(
        draw(INDEX), family, draw(addresses_of(family)), draw(MAC), draw(SHORT), draw(BYTE)
    )


@given(links())
def test_links_come_back(value: Link) -> None:
    assert link.decode(link.encode(value)) == value


@given(some_addresses())
def test_addresses_come_back(value: Address) -> None:
    assert address.decode(address.encode(value)) == value


@given(routes())
def test_routes_come_back(value: Route) -> None:
    assert route.decode(route.encode(value)) == value


@given(rules())
def test_rules_come_back(value: Rule) -> None:
    assert rule.decode(rule.encode(value)) == value


@given(neighbours())
def test_neighbours_come_back(value: Neighbour) -> None:
    assert neighbour.decode(neighbour.encode(value)) == value


MESSAGES = st.lists(st.builds(Message, SHORT, SHORT, WORD, st.binary(max_size=40)), max_size=5)


@given(MESSAGES)
def test_messages_come_back(messages: list[Message]) -> None:
    datagram = b""
    for one in messages:
        encoded = message.encode(one)
        datagram += encoded + bytes(-len(encoded) % 4)
    assert list(message.decode(datagram)) == messages


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=20)))
def test_attributes_come_back(values: dict[int, bytes]) -> None:
    data = b"".join(message.attribute(kind, value) for kind, value in values.items())
    assert message.attributes(data) == values
    assert message.attributes(message.nested(7, data)) == {7: data}


DECODERS = [module.decode for module in (link, address, route, rule, neighbour)]


@given(st.binary(max_size=120))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes raise anything but our own error, which is a `ValueError`."""
    for decode in DECODERS:
        with suppress(MessageError):
            decode(data)
    with suppress(MessageError):
        for one in message.decode(data):
            message.acknowledgement(one)


@given(st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """As above, of bytes that are nearly right: one of them is another."""
    module, values = data.draw(
        st.sampled_from([(link, links()), (route, routes()), (rule, rules())])
    )
    encoded = bytearray(module.encode(data.draw(values)))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(BYTE)
    with suppress(MessageError):
        module.decode(bytes(encoded))


@pytest.mark.parametrize(
    ("kind", "flags", "payload", "expected"),
    [
        (message.NLMSG_ERROR, 0, "00000000", (0, "")),
        (message.NLMSG_DONE, message.NLM_F_MULTI, "", (0, "")),
        (message.NLMSG_DONE, message.NLM_F_MULTI, "00000000", (0, "")),
    ],
)
def test_verdicts(kind: int, flags: int, payload: str, expected: tuple[int, str]) -> None:
    verdict = message.acknowledgement(Message(kind, flags, 1, bytes.fromhex(payload)))
    assert verdict == expected


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda: internet.packed(AF_INET, "10.0.0"), "'10.0.0' is no IPv4 address"),
        (lambda: internet.packed(AF_INET6, "10.0.0.1"), "'10.0.0.1' is no IPv6 address"),
        (lambda: internet.packed(AF_INET, "10.0.0.1\0"), "no IPv4 address"),
        (lambda: internet.packed(1, "x"), "family 1 is neither"),
        (lambda: internet.packed_network(AF_INET, "10.0.0.0/33"), "no IPv4 network"),
        (lambda: internet.packed_network(AF_INET, "10.0.0.0/-1"), "no IPv4 network"),
        (lambda: internet.packed_mac("02:0:0:0:0:0"), "no address of a link"),
        (lambda: internet.packed_mac("zz:00"), "no address of a link"),
        (lambda: link.named("a-name-of-16-byt"), "cannot name a link"),
        (lambda: link.named(""), "cannot name a link"),
        (lambda: link.named("a\0b"), "zero byte"),
        (lambda: link.numbered(1 << 31), "do not fit"),
        (lambda: address.encode(Address(1, AF_INET, "10.0.0.1", 33)), "longer than an address"),
        (lambda: route.encode(Route(AF_INET, metric=-1)), "-1 is no unsigned number"),
        (lambda: route.encode(Route(AF_INET, next_hops=(NextHop(1, weight=0),))), "do not fit"),
        (lambda: rule.encode(Rule(AF_INET, tos=256)), "do not fit"),
        (lambda: message.attribute(1, bytes(65536)), "too many"),
        (lambda: traffic.redirection(1, -1), "do not fit"),
    ],
)
def test_what_cannot_be_said_is_refused(say: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        say()


def test_an_error_says_what_was_asked() -> None:
    error = NetlinkError(101, "add route default via 10.0.0.1: Network is unreachable")
    assert error.errno == 101
    assert str(error) == "add route default via 10.0.0.1: Network is unreachable"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Route(AF_INET, "10.0.0.0/8", "10.1.0.1"), "10.0.0.0/8 via 10.1.0.1"),
        (Route(AF_INET6, index=3, metric=5, table=9), "default (IPv6) dev 3 metric 5 table 9"),
        (Route(AF_INET, "10.0.0.0/8", type=7), "unreachable 10.0.0.0/8"),
        (
            Route(AF_INET, next_hops=(NextHop(1, "10.0.0.1", 2), NextHop(2))),
            "default nexthop via 10.0.0.1 dev 1 weight 2 nexthop dev 2 weight 1",
        ),
        (Rule(AF_INET, 5, 9, source="10.0.0.1/32"), "5: from 10.0.0.1/32 lookup 9"),
        (Rule(AF_INET, 5, 0, 7, mark=1, oif="a"), "5: from all fwmark 0x1/0x0 oif a action 7"),
        (Address(3, AF_INET, "10.0.0.1", 8), "10.0.0.1/8 of link 3"),
        (Neighbour(3, AF_INET, "10.0.0.1", "02:00"), "10.0.0.1 dev 3 lladdr 02:00"),
    ],
)
def test_values_have_words(value: object, words: str) -> None:
    assert str(value) == words
