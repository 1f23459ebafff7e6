"""Addresses for ServiceEntries that have none, so that TCP to their hosts can be told apart.

An address follows from the host's name, so it is the same whoever computes it; where two names
fall together, the older entry keeps the place. What is already in an entry's status stays.
"""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.api.service_entry import ServiceEntry
from meltemi.base.keys import HostKey
from meltemi.model.entries import hosts_of_entry

V4 = ipaddress.IPv4Network("240.240.0.0/16")
V6 = ipaddress.IPv6Network("2001:2::/48")
SWITCH = "networking.istio.io/enable-autoallocate-ip"


class Wanted(msgspec.Struct, frozen=True):
    """A host that needs an address, and those its entry's status holds already."""

    key: HostKey
    created: tuple[str, str, str]
    held: tuple[str, ...]


def wanted_by_entry(entry: ServiceEntry) -> tuple[Wanted, ...]:
    """The hosts of an entry that get an address: neither wildcards nor resolution NONE."""
    spec = entry.spec
    refused = entry.metadata.labels.get(SWITCH, "").lower() == "false"
    if refused or spec.addresses or spec.resolution in ("NONE", "DYNAMIC_DNS"):
        return ()
    held: dict[str, list[str]] = {}
    for address in entry.status.addresses:
        if is_allocated(address.value):
            held.setdefault(address.host.lower(), []).append(address.value)
    return tuple(
        Wanted(key, entry.age_order, tuple(held.get(key.host, ())))
        for key in hosts_of_entry(entry)
        if not key.host.startswith("*")
    )


def is_allocated(text: str) -> bool:
    """Whether an address is of the ranges that the mesh gives out."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address in V4 or address in V6


def allocate(wanted: Sequence[Wanted]) -> Mapping[HostKey, tuple[str, ...]]:
    """An IPv4 and an IPv6 address for each host."""
    taken: dict[str, HostKey] = {}
    ordered = sorted(wanted, key=lambda w: (w.created, w.key))
    for item in ordered:
        for address in item.held:
            taken.setdefault(address, item.key)
    found: dict[HostKey, tuple[str, ...]] = {}
    for item in ordered:
        if item.key in found:
            continue
        kept = [a for a in item.held if taken[a] == item.key]
        v4 = next((a for a in kept if ":" not in a), "") or _free(item.key, V4, taken)
        v6 = next((a for a in kept if ":" in a), "") or _free(item.key, V6, taken)
        found[item.key] = (v4, v6)
    return found


def _free(
    key: HostKey,
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    taken: dict[str, HostKey],
) -> str:
    """The first free place from the one the name points to; the network's ends stay empty."""
    digest = hashlib.blake2b(f"{key.namespace}/{key.host}".encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "big")
    room = min(network.num_addresses, 1 << 32) - 2
    for step in range(room):
        address = str(network[1 + (start + step) % room])
        if taken.setdefault(address, key) == key:
            return address
    raise OverflowError(f"no address is left in {network}")
