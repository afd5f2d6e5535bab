"""A node's own address: on the interface or in the network that the profile names, else where its name leads."""

from __future__ import annotations

import pytest

from app.allocation.addresses import AddressError, interfaces_here, own_address, resolve_here

INTERFACES = {
    "lo": ["127.0.0.1", "127.0.1.1"],
    "eth0": ["192.168.1.5"],
    "ib0": ["10.1.0.5", "10.2.0.5"],
    "down": [],
}


def address(wanted: str | None = None, resolved: str | None = None) -> str:
    return own_address(wanted, "n5", INTERFACES, {"n5": resolved}.get)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ib0", "10.1.0.5"),
        ("eth0", "192.168.1.5"),
        ("10.2.0.0/16", "10.2.0.5"),
        ("10.0.0.0/8", "10.1.0.5"),
        ("192.168.1.5/32", "192.168.1.5"),
        ("lo", "127.0.0.1"),
    ],
)
def test_the_profile_names_an_interface_or_a_network(wanted: str, found: str) -> None:
    assert address(wanted, resolved="192.168.1.5") == found


def test_without_one_it_is_what_the_nodes_name_stands_for() -> None:
    assert address(resolved="10.2.0.5") == "10.2.0.5"


@pytest.mark.parametrize("resolved", ["127.0.1.1", "127.0.0.1", "172.16.0.1", None])
def test_a_name_that_leads_nowhere_or_to_loopback_is_not_followed(resolved: str | None) -> None:
    """Debian has the host's own name stand for 127.0.1.1, where no other node finds it."""
    assert address(resolved=resolved) == "192.168.1.5"


@pytest.mark.parametrize("wanted", ["ib1", "172.16.0.0/12", "down", "fd00::/8", "10.1.0.5"])
def test_what_is_not_there_is_told_with_what_is(wanted: str) -> None:
    with pytest.raises(AddressError) as told:
        address(wanted)
    assert str(told.value) == (
        f"cluster.interface: n5 has no {wanted}; it has lo (127.0.0.1, 127.0.1.1), eth0 (192.168.1.5), "
        "ib0 (10.1.0.5, 10.2.0.5), down ()"
    )


@pytest.mark.parametrize(
    ("interfaces", "has"), [({"lo": ["127.0.0.1"]}, r"it has lo \(127\.0\.0\.1\)$"), ({}, "it has none$")]
)
def test_loopback_alone_is_no_address(interfaces: dict[str, list[str]], has: str) -> None:
    with pytest.raises(AddressError, match=f"cluster.interface: n5 has no address but loopback's; {has}"):
        own_address(None, "n5", interfaces, lambda _: "127.0.0.1")


def test_this_machine_has_loopback_and_knows_its_name() -> None:
    assert "127.0.0.1" in interfaces_here()["lo"]
    assert resolve_here("localhost") == "127.0.0.1"
    assert resolve_here("no-such-node.invalid") is None
