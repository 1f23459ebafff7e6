"""Addresses of Services: families, ClusterIPs and node ports, settled as Kubernetes 1.32 does.

https://kubernetes.io/docs/concepts/services-networking/dual-stack/
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meltemi.local.families import IPV4, IPV6, family_of
from meltemi.local.ipv6 import SERVICES as IPV6_RANGE

Json = dict[str, Any]
Cause = tuple[str, str]
Range = ipaddress.IPv4Network | ipaddress.IPv6Network

_RANGES: Mapping[str, Range] = {IPV4: ipaddress.IPv4Network("10.43.0.0/16"), IPV6: IPV6_RANGE}
_FIRST = 10
"""The first address that is given out; the very first belongs to the API itself."""
_NODE_PORTS = range(30000, 32768)
_SINGLE, _PREFER, _REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
_POLICIES = (_SINGLE, _PREFER, _REQUIRE)
_IPS = "clusterIPs"
_FIELDS = ("clusterIP", _IPS, "ipFamilies", "ipFamilyPolicy")


class Addresses:
    """Gives out what a Service is reached by. `has_ipv6`: beside IPv4."""

    def __init__(self, *, has_ipv6: bool = False) -> None:
        self._families = (IPV4, IPV6) if has_ipv6 else (IPV4,)
        self._next = dict.fromkeys(_RANGES, _FIRST)

    def settle(self, spec: Json, before: Json | None, others: Iterable[Json]) -> list[Cause]:
        """Fill in families, addresses and node ports of a Service's spec, apart from those that
        other specs have; or say what is wrong with those it has. `before`: the spec that stands.
        """
        listed = list(others)
        if spec.get("type") == "ExternalName":
            return list(_dropped(spec, before))
        _adopt(spec, before)
        causes = list(_shape(spec)) or list(self._unavailable(spec, before))
        if not causes:
            self._fill_families(spec)
            causes += self._fill_addresses(spec, before, listed)
        if not causes:
            _fill_node_ports(spec, before or {}, listed)
        return causes

    def _unavailable(self, spec: Json, before: Json | None) -> Iterator[Cause]:
        """What asks for a family that is not there; nobody serves a headless Service without a
        selector but the endpoints that users write."""
        if _is_free(spec):
            return
        old = before or {}
        missing = "there is no IPv6 on this machine"
        policy = spec.get("ipFamilyPolicy")
        is_new = policy != old.get("ipFamilyPolicy")
        if policy == _REQUIRE and IPV6 not in self._families and is_new:
            yield "spec.ipFamilyPolicy", f'Invalid value: "{policy}": {missing}'
        for i, family in enumerate(_families(spec)):
            if family not in self._families and family not in (old.get("ipFamilies") or ()):
                yield f"spec.ipFamilies[{i}]", f'Invalid value: "{family}": {missing}'

    def _fill_families(self, spec: Json) -> None:
        families = _families(spec) or [IPV4]
        policy = spec.get("ipFamilyPolicy")
        if policy is None:
            is_both = len(families) > 1 or IPV6 in self._families
            policy = _REQUIRE if _is_free(spec) and is_both else _SINGLE
        is_free = _is_free(spec) and policy == _REQUIRE
        if policy != _SINGLE and len(families) == 1 and (IPV6 in self._families or is_free):
            families = [*families, IPV6 if families == [IPV4] else IPV4]
        spec["ipFamilies"], spec["ipFamilyPolicy"] = families, policy

    def _fill_addresses(
        self, spec: Json, before: Json | None, others: Sequence[Json]
    ) -> Iterator[Cause]:
        if spec.get("clusterIP") == "None":
            spec["clusterIPs"] = ["None"]
            return
        used = {ip for other in others if other is not before for ip in _ips(other)}
        known = _ips(before or {})
        addresses = [*_ips(spec)]
        for i, ip in enumerate(addresses):
            family = family_of(ip)
            if ip in known:
                continue
            if ipaddress.ip_address(ip) not in _RANGES[family]:
                why = f"not in the range of Services, {_RANGES[family]}"
                yield f"spec.clusterIPs[{i}]", f'Invalid value: "{ip}": {why}'
            elif ip in used:
                yield f"spec.clusterIPs[{i}]", f'Invalid value: "{ip}": another Service has it'
        for family in spec["ipFamilies"][len(addresses) :]:
            addresses.append(self._free(family, used))
        spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses

    def _free(self, family: str, used: set[str]) -> str:
        network = _RANGES[family]
        while True:
            number = self._next[family] % network.num_addresses
            self._next[family] = number + 1
            address = str(network[number])
            if number >= _FIRST and address not in used and number % 256 not in (0, 255):
                return address


def _dropped(spec: Json, before: Json | None) -> Iterator[Cause]:
    """A Service that becomes an alias gives back what it had."""
    for field in _FIELDS:
        if before is not None and spec.get(field) == before.get(field):
            spec.pop(field, None)
        if spec.get(field):
            yield f"spec.{field}", "Forbidden: may not be set for services of type ExternalName"


def _adopt(spec: Json, before: Json | None) -> None:
    """What an update leaves out stays; a policy of one family gives the other's back."""
    old = before if before is not None and before.get("type") != "ExternalName" else {}
    for field in ("clusterIP", "ipFamilyPolicy", "ipFamilies"):
        if not spec.get(field) and old.get(field):
            spec[field] = old[field]
    first = spec.get("clusterIP")
    is_new = first != old.get("clusterIP")
    if first and (not spec.get("clusterIPs") or (is_new and spec["clusterIPs"] == old.get(_IPS))):
        spec["clusterIPs"] = [first] if is_new else old.get(_IPS) or [first]
    if old and spec.get("ipFamilyPolicy") == _SINGLE != old.get("ipFamilyPolicy"):
        for field in ("clusterIPs", "ipFamilies"):
            if spec.get(field) == old.get(field):
                spec[field] = (spec.get(field) or [])[:1]


def _unknown_words(spec: Json) -> Iterator[Cause]:
    asked: list[tuple[str, str, Sequence[str]]]
    asked = [
        (f"ipFamilies[{i}]", f, (IPV4, IPV6)) for i, f in enumerate(spec.get("ipFamilies") or ())
    ]
    asked.append(("ipFamilyPolicy", spec.get("ipFamilyPolicy") or _SINGLE, _POLICIES))
    for field, word, known in asked:
        if word not in known:
            listed = ", ".join(f'"{one}"' for one in known)
            yield f"spec.{field}", f'Unsupported value: "{word}": supported values: {listed}'


def _shape(spec: Json) -> Iterator[Cause]:
    """Whether families and addresses fit each other."""
    yield from _unknown_words(spec)
    first, addresses = spec.get("clusterIP") or "", [*(spec.get("clusterIPs") or ())]
    families = [*(spec.get("ipFamilies") or ())]
    for field, found in (("ipFamilies", families), ("clusterIPs", addresses)):
        if len(found) > 2:
            yield f"spec.{field}", "Too many: 2 at most, one of each family"
        elif len(set(found)) < len(found):
            yield f"spec.{field}[1]", f'Duplicate value: "{found[1]}"'
    if addresses and addresses[0] != first:
        yield "spec.clusterIPs[0]", f'Invalid value: "{addresses[0]}": must be spec.clusterIP'
        return
    if "None" in addresses:
        if len(addresses) > 1:
            yield "spec.clusterIPs", "Invalid value: a headless Service has only None"
        addresses = []
    kinds = []
    for i, ip in enumerate(addresses):
        kinds.append(family_of(ip))
        if not kinds[-1]:
            yield f"spec.clusterIPs[{i}]", f'Invalid value: "{ip}": neither an IP address nor None'
            return
        if str(ipaddress.ip_address(ip)) != ip:
            yield f"spec.clusterIPs[{i}]", f'Invalid value: "{ip}": write it as the shortest form'
    if len(set(kinds)) < len(kinds):
        yield "spec.clusterIPs", "Invalid value: one address of each family at most"
    for i, (family, kind) in enumerate(zip(families, kinds, strict=False)):
        if family != kind:
            yield f"spec.clusterIPs[{i}]", f'Invalid value: "{addresses[i]}": no {family} address'
    several = max(len(families), len(kinds)) > 1
    policy = spec.get("ipFamilyPolicy")
    if several and policy == _SINGLE:
        yield "spec.ipFamilyPolicy", f'Invalid value: "{policy}": but two families are named'
    elif several and policy is None and not _is_free(spec):
        yield "spec.ipFamilyPolicy", f"Required value: {_PREFER} or {_REQUIRE} for two families"


def _fill_node_ports(spec: Json, before: Json, others: Iterable[Json]) -> None:
    """A port keeps the one it had."""
    if spec.get("type") not in ("NodePort", "LoadBalancer"):
        return
    used = {p.get("nodePort") for s in others for p in s.get("ports") or () if p}
    had = {(p["port"], p.get("protocol")): p.get("nodePort") for p in before.get("ports") or ()}
    for port in spec.get("ports") or ():
        if not port.get("nodePort"):
            kept = had.pop((port.get("port"), port.get("protocol")), None)
            port["nodePort"] = kept or next(p for p in _NODE_PORTS if p not in used)
            used.add(port["nodePort"])


def _families(spec: Json) -> list[str]:
    """What is asked for; addresses say it, too."""
    named = [*(spec.get("ipFamilies") or ())]
    return [*named, *(family_of(ip) for ip in _ips(spec)[len(named) :])]


def _ips(spec: Json) -> list[str]:
    found = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [ip for ip in found if ip and ip != "None"]


def _is_free(spec: Json) -> bool:
    """Headless and without a selector: its families are only words to the API."""
    return spec.get("clusterIP") == "None" and not spec.get("selector")
