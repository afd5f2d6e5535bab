"""This node's address for Ray, replicas and clients: one address, on one interface."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence

import psutil

Interfaces = Mapping[str, Sequence[str]]
"""Interface -> its IPv4 addresses, those that are up."""


class AddressError(Exception):
    """This node has no such address; the message names the field and what would work."""


def own_address(wanted: str | None, node: str, interfaces: Interfaces, resolve: Callable[[str], str | None]) -> str:
    """The address on the interface or in the network `wanted`; without one, what the node's name stands for.

    Where that is no address of this node's (Debian's 127.0.1.1), the first that is not loopback. Raises AddressError.
    """
    if wanted is None:
        return _by_name(node, interfaces, resolve)
    found = [address for name, addresses in interfaces.items() for address in addresses if _is(wanted, name, address)]
    if found:
        return found[0]
    raise AddressError(f"cluster.interface: {node} has no {wanted}; it has {_listed(interfaces)}")


def _is(wanted: str, interface: str, address: str) -> bool:
    if wanted == interface:
        return True
    return "/" in wanted and ipaddress.ip_address(address) in ipaddress.ip_network(wanted)


def _by_name(node: str, interfaces: Interfaces, resolve: Callable[[str], str | None]) -> str:
    outward = [
        address
        for addresses in interfaces.values()
        for address in addresses
        if not ipaddress.ip_address(address).is_loopback
    ]
    named = resolve(node)
    if named in outward:
        return named
    if outward:
        return outward[0]
    raise AddressError(f"cluster.interface: {node} has no address but loopback's; it has {_listed(interfaces)}")


def _listed(interfaces: Interfaces) -> str:
    return ", ".join(f"{name} ({', '.join(addresses)})" for name, addresses in interfaces.items()) or "none"


def interfaces_here() -> Interfaces:
    """The interfaces of this node that are up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return {
        name: [each.address for each in addresses if each.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }


def resolve_here(node: str) -> str | None:
    try:
        return socket.gethostbyname(node)
    except OSError:
        return None
