"""Of servers that disagree the newest claim counts, and what a URL names is reached with its login and options."""

from __future__ import annotations

import pytest

from gateway.meter.client.topology import SLOTS, Address, ClusterUrl, SlotRange, View, owners, redirection, view

A, B = Address("10.0.0.1", 7000), Address("10.0.0.2", 7000)
NODES = (
    b"aa 10.0.0.1:7000@17000,a.example myself,master - 0 0 3 connected 0-8191 [5-<-bb]\n"
    b"bb 10.0.0.2:7000@17000 master - 0 1 12 connected 8192-16383\n"
    b"vars currentEpoch 12 lastVoteEpoch 0\n"
)


def test_cluster_url_names_nodes_and_the_login_for_all() -> None:
    url = ClusterUrl.parse("rediss+cluster://u:p%40w@a:7000,b,[::1]:7002/0?ssl_cert_reqs=none")
    assert url is not None
    assert url.seeds == (("a", 7000), ("b", 6379), ("::1", 7002))
    assert url.of(Address("c", 1)) == "rediss://u:p%40w@c:1?ssl_cert_reqs=none"
    assert url.of(Address("::2", 1)) == "rediss://u:p%40w@[::2]:1?ssl_cert_reqs=none"


def test_cluster_url_is_none_for_a_single_server() -> None:
    assert ClusterUrl.parse("redis://a:7000,b/0") is None


@pytest.mark.parametrize("url", ["redis+cluster://a:x", "redis+cluster://a,,b", "redis+cluster://:secret@/"])
def test_invalid_cluster_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="host:port, separated by commas") as refused:
        ClusterUrl.parse(url)
    assert "secret" not in str(refused.value)


def test_view_has_client_addresses_and_configuration_epochs() -> None:
    slots = [[0, 8191, [b"a.example", 7000, b"aa", []], [b"10.0.0.9", 7009, b"cc"]], [8192, 16383, [None, 7001, b"bb"]]]
    seen = view(slots, NODES, asked=Address("asked", 7000))
    assert seen.ranges == (
        SlotRange(3, 0, 8191, Address("a.example", 7000)),
        SlotRange(12, 8192, 16383, Address("asked", 7001)),
    )
    assert seen.addresses == {("a.example", 7000), ("10.0.0.9", 7009), ("asked", 7001)}


def test_slot_belongs_to_the_greatest_epoch_in_any_order_of_views() -> None:
    old = View((SlotRange(1, 0, 99, A), SlotRange(5, 100, 199, A)), frozenset())
    new = View((SlotRange(3, 50, 149, B),), frozenset())
    for views in ([old, new], [new, old]):
        assert [owners(views)[slot] for slot in (0, 49, 50, 99, 100, 199, 200)] == [A, A, B, B, A, A, None]
    assert len(owners([])) == SLOTS


@pytest.mark.parametrize(
    ("message", "address"),
    [
        ("MOVED 3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("ASK 3999 node.example:6381", ("node.example", 6381)),
        ("MOVED 3999 :6381", A._replace(port=6381)),
        ("MOVED 3999 fe80::1:6381", ("fe80::1", 6381)),
    ],
)
def test_redirection_leads_to_an_address(message: str, address: Address) -> None:
    assert redirection(message, asked=A) == (3999, address)
