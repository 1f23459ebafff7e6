"""Services of type LoadBalancer and NodePort, as the machine's own loopback shows them.

Each LoadBalancer gets an address of 127.44.0.0/16, on which its ports listen; node ports listen on
127.0.0.1. What cannot be opened is said in the Service's status and in an event.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence

import msgspec

from meltemi.base.keys import ObjectKey
from meltemi.kube.client import Client, JsonObject
from meltemi.kube.errors import KubeError
from meltemi.kube.writer import patch_status
from meltemi.local.node.events import Events
from meltemi.local.node.forward import Route, serve_tcp, serve_udp
from meltemi.local.node.services import Port, ServiceTable, Virtual
from meltemi.local.porter import Porter, Wanted

log = logging.getLogger(__name__)

BLOCK = ipaddress.IPv4Network("127.44.0.0/16")
"""Loopback addresses for LoadBalancers."""
_FIRST = 10
_RETRY = 5.0
_TRIES = 16
"""Addresses to try when ports of others are in the way, such as those of a second mesh."""

Service = tuple[str, str]


class _Place(msgspec.Struct, frozen=True):
    """A port of a Service, where the machine shows it."""

    service: Service
    service_port: int
    wanted: Wanted


class Balancer:
    """Keeps the listeners as the Services are."""

    def __init__(self, client: Client, table: ServiceTable, porter: Porter, events: Events) -> None:
        self._client = client
        self._table = table
        self._porter = porter
        self._events = events
        self._listeners: dict[_Place, asyncio.Task[None]] = {}
        self._addresses: dict[Service, str] = {}
        self._failures: dict[_Place, str] = {}
        self._written: dict[Service, list[JsonObject]] = {}
        self._said: set[tuple[Service, str]] = set()

    async def run(self) -> None:
        """Follow the table until cancelled."""
        try:
            while True:
                changed = self._table.changed
                is_whole = await self._reconcile(list(self._table))
                try:
                    async with asyncio.timeout(None if is_whole else _RETRY):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            await self._close(list(self._listeners))

    async def _reconcile(self, services: Sequence[Virtual]) -> bool:
        """Whether every port is open and every status written."""
        balanced = [s for s in services if s.type == "LoadBalancer" and not s.balancer_class]
        present = {s.key for s in balanced}
        self._addresses = {k: a for k, a in self._addresses.items() if k in present}
        nodes = [s for s in services if s.type in ("NodePort", "LoadBalancer")]
        wanted = {place for s in nodes for place in _node_places(s)}
        for service in balanced:
            self._adopt(service)
            if service.key in self._addresses:
                wanted |= set(_places(service, self._addresses[service.key]))
        await self._close(set(self._listeners) - wanted)
        self._failures = {p: text for p, text in self._failures.items() if p in wanted}
        for place in sorted(wanted - set(self._listeners), key=str):
            await self._open(place)
        for service in balanced:
            if service.key not in self._addresses:
                await self._find_address(service)
        written = [await self._write_status(s) for s in services]
        for service in services:
            if service.external_ips:
                text = "spec.externalIPs are not served on one machine; use type LoadBalancer"
                self._say(service, "ExternalIPsIgnored", text)
        return all(written) and not self._failures

    def _adopt(self, service: Virtual) -> None:
        """Keep the address that the status shows, from an earlier run of the node."""
        if service.key in self._addresses:
            return
        used = set(self._addresses.values())
        for ip in service.ingress:
            if ipaddress.ip_address(ip) in BLOCK and ip not in used:
                self._addresses[service.key] = ip

    async def _find_address(self, service: Virtual) -> None:
        """The first address whose ports are free; else the first one, with what failed."""
        used = set(self._addresses.values())
        candidates = (str(BLOCK[n]) for n in range(_FIRST, BLOCK.num_addresses - 1))
        free = [ip for ip, _ in zip((ip for ip in candidates if ip not in used), range(_TRIES),
                                    strict=False)]  # fmt: skip
        for ip in free:
            places = _places(service, ip)
            for place in places:
                await self._open(place)
            if not any("in use" in self._failures.get(place, "") for place in places):
                self._addresses[service.key] = ip
                return
            for place in places:
                self._failures.pop(place, None)
            await self._close(places)
        self._addresses[service.key] = free[0]

    async def _close(self, places: Iterable[_Place]) -> None:
        """Return when the ports are free again."""
        tasks = [self._listeners.pop(place) for place in places if place in self._listeners]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, place: _Place) -> None:
        try:
            sock = await asyncio.to_thread(self._porter.open, place.wanted)
        except OSError as error:
            self._failures[place] = (error.strerror or str(error)).lower()
            service = self._table.get(*place.service)
            if service is not None:
                text = (
                    f"port {place.wanted.port} on {place.wanted.address} cannot be opened: "
                    f"{self._failures[place]}"
                )
                self._say(service, "PortNotPublished", text)
            return
        self._failures.pop(place, None)
        name = f"port {place.wanted.port} of {'/'.join(place.service)}"
        self._listeners[place] = asyncio.create_task(self._serve(sock, place), name=name)

    async def _serve(self, sock: socket.socket, place: _Place) -> None:
        route = Route(self._table, *place.service, place.service_port)
        try:
            if place.wanted.protocol == "TCP":
                await serve_tcp(sock, route)
            else:
                await serve_udp(sock, route)
        finally:
            sock.close()

    async def _write_status(self, service: Virtual) -> bool:
        ip = self._addresses.get(service.key)
        if ip is None and not any(ipaddress.ip_address(i) in BLOCK for i in service.ingress):
            return True
        ingress: list[JsonObject] = []
        if ip is not None:
            ports = [self._port_status(place) for place in _places(service, ip)]
            ingress = [{"ip": ip, "ipMode": "Proxy", "ports": ports}]
            if service.ingress == (ip,) and self._written.get(service.key) == ingress:
                return True
        key = ObjectKey("Service", *service.key)
        try:
            await patch_status(self._client, key, {"loadBalancer": {"ingress": ingress}})
        except KubeError as error:
            log.warning("status of %s: %s; trying again", key, error)
            return False
        self._written[service.key] = ingress
        return True

    def _port_status(self, place: _Place) -> JsonObject:
        found: JsonObject = {"port": place.service_port, "protocol": place.wanted.protocol}
        if place in self._failures:
            found["error"] = "meltemi.io/PortNotPublished"
        return found

    def _say(self, service: Virtual, reason: str, text: str) -> None:
        if (service.key, text) not in self._said:
            self._said.add((service.key, text))
            self._events.tell_of("Service", service, reason, text, is_warning=True)


def _places(service: Virtual, ip: str) -> Sequence[_Place]:
    return [_place(service, port, ip, port.port) for port in _served(service)]


def _node_places(service: Virtual) -> Sequence[_Place]:
    return [
        _place(service, port, "127.0.0.1", port.node_port)
        for port in _served(service)
        if port.node_port
    ]


def _served(service: Virtual) -> Sequence[Port]:
    return [port for port in service.ports if port.protocol in ("TCP", "UDP")]


def _place(service: Virtual, port: Port, ip: str, number: int) -> _Place:
    return _Place(service.key, port.port, Wanted(port.protocol, ip, number))
