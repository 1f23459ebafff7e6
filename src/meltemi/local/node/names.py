"""The pods' name server: Services, headless records, ExternalName; the rest is asked elsewhere.

The records follow the Kubernetes DNS specification (A, SRV, PTR, CNAME) for the cluster domain.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import cast

import msgspec
from dnslib import AAAA, CNAME, PTR, QTYPE, RCODE, RR, SRV, A, DNSError, DNSRecord

from meltemi.local.node.entries import EntryTable
from meltemi.local.node.network import bound
from meltemi.local.node.services import Backend, ServiceTable, Virtual

log = logging.getLogger(__name__)

_TTL = 5
_FORWARD_SECONDS = 3.0
_MOST_PENDING = 512
_MOST_ALIASES = 4
_REVERSE = (".in-addr.arpa", ".ip6.arpa")
_DATAGRAM = 1232
"""Bytes that cross any network in one piece."""


class Answer(msgspec.Struct, frozen=True):
    """Records for a question; `exists` tells a name without such records from no name at all."""

    records: tuple[RR, ...] = ()
    exists: bool = True


class Zone:
    """Answers questions about the cluster's domain from the table of services. No I/O."""

    def __init__(self, table: ServiceTable, domain: str = "cluster.local") -> None:
        self._table = table
        self._domain = domain

    def owns(self, name: str) -> bool:
        """Whether a name is the cluster's to answer, forward or reverse."""
        if name.endswith(_REVERSE):
            return self._owner(name) is not None
        return name == self._domain or name.endswith(f".{self._domain}")

    def answer(self, name: str, kind: str) -> Answer:
        """`name` in lower case without the final dot; `kind` such as `A`."""
        if name.endswith(_REVERSE):
            owner = self._owner(name)
            target = f"{owner}.svc.{self._domain}" if owner else ""
            records = _records(name, "PTR", [PTR(target)]) if owner and kind == "PTR" else ()
            return Answer(records, exists=owner is not None)
        parts = name[: -len(self._domain) - 1].split(".") if name != self._domain else []
        if parts[-1:] == ["pod"] and len(parts) == 3:
            return _of_pod(name, parts[0], kind)
        if parts[-1:] != ["svc"]:
            return Answer(exists=not parts)
        parts.pop()
        if len(parts) < 2:
            return Answer(
                exists=any(s.namespace == parts[-1] for s in self._table) if parts else True
            )
        namespace, service = parts[-1], parts[-2]
        found = self._table.get(namespace, service)
        if found is None:
            return Answer(exists=False)
        return self._of_service(found, name, parts[:-2], kind)

    def _of_service(self, service: Virtual, name: str, rest: Sequence[str], kind: str) -> Answer:
        if service.external_name:
            return Answer(_records(name, "CNAME", [CNAME(service.external_name)]))
        match rest:
            case []:
                return Answer(_addresses(name, _ips(service), kind))
            case [port, protocol] if port.startswith("_") and protocol.startswith("_"):
                return self._ports(service, name, port[1:], protocol[1:], kind)
            case [host] if service.is_headless:
                ips = [b.ip for b in service.backends if _host(b) == host]
                return Answer(_addresses(name, ips, kind), exists=bool(ips))
        return Answer(exists=False)

    def _ports(self, service: Virtual, name: str, port: str, protocol: str, kind: str) -> Answer:
        base = f"{service.name}.{service.namespace}.svc.{self._domain}"
        targets: list[SRV] = []
        for p in service.ports:
            if p.name != port or p.protocol.lower() != protocol:
                continue
            if service.is_headless:
                hosts = sorted({(_host(b), b.ports.get(p.name, p.port)) for b in service.ready})
                targets += [SRV(0, 100, number, f"{host}.{base}") for host, number in hosts]
            else:
                targets.append(SRV(0, 100, p.port, base))
        wanted = targets if kind == "SRV" else []
        return Answer(_records(name, "SRV", wanted), exists=bool(targets))

    def _owner(self, name: str) -> str | None:
        """The service, or the named endpoint of one, that a reverse name belongs to."""
        ip = _address_of(name)
        for service in self._table:
            if ip in service.addresses:
                return f"{service.name}.{service.namespace}"
            if service.is_headless:
                for backend in service.backends:
                    if backend.ip == ip:
                        return f"{_host(backend)}.{service.name}.{service.namespace}"
        return None


def _address_of(name: str) -> str:
    """The address that a reverse name is about; empty for none."""
    digits = list(reversed(name.split(".")[:-2]))
    if name.endswith(".in-addr.arpa"):
        return ".".join(digits)
    pairs = iter(digits)
    text = ":".join("".join(four) for four in zip(pairs, pairs, pairs, pairs, strict=False))
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def _of_pod(name: str, dashed: str, kind: str) -> Answer:
    """A-B-C-D.NAMESPACE.pod is A.B.C.D, whoever has it; A--B is A::B."""
    for separator in ".:":
        try:
            ip = str(ipaddress.ip_address(dashed.replace("-", separator)))
        except ValueError:
            continue
        return Answer(_addresses(name, [ip], kind))
    return Answer(exists=False)


def _ips(service: Virtual) -> Sequence[str]:
    if service.is_headless:
        return [backend.ip for backend in service.ready]
    return service.addresses


def _host(backend: Backend) -> str:
    return backend.hostname or backend.ip.replace(".", "-").replace(":", "-")


def _addresses(name: str, ips: Iterable[str], kind: str) -> tuple[RR, ...]:
    versions = {"A": 4, "AAAA": 6}
    wanted = [ip for ip in ips if ipaddress.ip_address(ip).version == versions.get(kind)]
    return _records(name, kind, [A(ip) if kind == "A" else AAAA(ip) for ip in wanted])


def _records(name: str, kind: str, data: Iterable[object]) -> tuple[RR, ...]:
    number = getattr(QTYPE, kind)
    return tuple(RR(name, number, ttl=_TTL, rdata=d) for d in data)


class Names:
    """The names that one namespace sees: the cluster's, then those of ServiceEntries."""

    def __init__(self, zone: Zone, entries: EntryTable, namespace: str) -> None:
        self._zone = zone
        self._entries = entries
        self._namespace = namespace

    def owns(self, name: str) -> bool:
        return self._zone.owns(name) or self._entries.find(name, self._namespace) is not None

    def answer(self, name: str, kind: str) -> Answer:
        """Kubernetes' own Services come before entries of the same name."""
        if self._zone.owns(name):
            found = self._zone.answer(name, kind)
            if found.exists:
                return found
        host = self._entries.find(name, self._namespace)
        if host is None:
            return Answer(exists=False)
        return Answer(_addresses(name, host.addresses, kind))


class NameServer:
    """UDP and TCP, on the pods' gateway address or in a pod's own network, where the capture
    rules lead every question (port 15053). Use `serve`; it ends by cancellation."""

    def __init__(
        self,
        zone: Zone,
        upstream: Sequence[str],
        entries: EntryTable,
    ) -> None:
        self._zone = zone
        self._upstream = upstream
        self._entries = entries
        self._namespace_of: Callable[[str], str] = lambda _ip: ""
        self._is_ready: Callable[[], bool] = lambda: True
        self._pending: set[asyncio.Task[None]] = set()

    def know(self, namespace_of: Callable[[str], str], is_ready: Callable[[], bool]) -> None:
        """`namespace_of`: whose address a question comes from; `is_ready`: whether the tables
        are filled: before that every answer is SERVFAIL, which clients try again."""
        self._namespace_of = namespace_of
        self._is_ready = is_ready

    def of_namespace(self, namespace: str) -> "NameServer":
        """The same for questions that all come from one namespace."""
        own = NameServer(self._zone, self._upstream, self._entries)
        own.know(lambda _ip: namespace, self._is_ready)
        return own

    async def serve(self, addresses: Sequence[str], port: int = 53) -> None:
        """On addresses of this network."""
        await self.serve_on(*(sock for address in addresses for sock in bound(address, port)))

    async def serve_on(self, *sockets: socket.socket) -> None:
        """On sockets of whatever network, for datagrams and streams; they are closed at the
        end."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for sock in sockets:
                sock.setblocking(False)
                if sock.type is socket.SOCK_DGRAM:
                    transport, _ = await loop.create_datagram_endpoint(
                        lambda: _Udp(self), sock=sock
                    )
                    stack.callback(transport.close)
                else:
                    server = await asyncio.start_server(self._stream, sock=sock)
                    await stack.enter_async_context(server)
            await asyncio.Event().wait()

    def datagram(
        self, data: bytes, peer: tuple[str, int], reply: asyncio.DatagramTransport
    ) -> None:
        """Answer at once what is ours; the rest in a task of its own."""
        query = _parse(data)
        if query is None:
            return
        seen = self._seen(peer[0])
        answer = self._local(query, seen)
        if answer is not None and not _leads_outside(answer, seen):
            reply.sendto(_fit(answer), peer)
        elif len(self._pending) < _MOST_PENDING:
            task = asyncio.create_task(self._relay(data, query, peer, reply), name="dns upstream")
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _relay(
        self, data: bytes, query: DNSRecord, peer: tuple[str, int], reply: asyncio.DatagramTransport
    ) -> None:
        packed = await self._resolve(data, query, self._seen(peer[0]))
        reply.sendto(packed if len(packed) <= _DATAGRAM else _fit(DNSRecord.parse(packed)), peer)

    def _seen(self, ip: str) -> Names:
        return Names(self._zone, self._entries, self._namespace_of(ip))

    async def _resolve(self, data: bytes, query: DNSRecord, seen: Names) -> bytes:
        """The answer to any question. An alias that leads outside is followed there."""
        answer = self._local(query, seen)
        if answer is None:
            return await self._forward(data, query)
        target = _leads_outside(answer, seen)
        if target:
            question = DNSRecord.question(target, QTYPE[query.q.qtype])
            found = _parse(await self._forward(bytes(question.pack()), question))
            for record in found.rr if found is not None else ():
                answer.add_answer(record)
        return bytes(answer.pack())

    def _local(self, query: DNSRecord, seen: Names) -> DNSRecord | None:
        if not self._is_ready():
            early = query.reply()
            early.header.rcode = RCODE.SERVFAIL
            return early
        name = str(query.q.qname).rstrip(".").lower()
        if not seen.owns(name):
            return None
        kind = QTYPE[query.q.qtype]
        answer = seen.answer(name, kind)
        message = query.reply()
        message.header.aa = 1
        message.header.ra = 1
        if not answer.exists:
            message.header.rcode = RCODE.NXDOMAIN
        for _ in range(_MOST_ALIASES):
            for record in answer.records:
                message.add_answer(record)
            target = _alias(message)
            if kind not in ("A", "AAAA") or not target or not seen.owns(target):
                break
            answer = seen.answer(target, kind)
        return message

    async def _forward(self, data: bytes, query: DNSRecord) -> bytes:
        for server in self._upstream:
            try:
                async with asyncio.timeout(_FORWARD_SECONDS):
                    return await _ask(server, data)
            except (TimeoutError, OSError):
                continue
        message = query.reply()
        message.header.ra = 1
        message.header.rcode = RCODE.SERVFAIL if self._upstream else RCODE.NXDOMAIN
        return bytes(message.pack())

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
                query = _parse(data)
                if query is None:
                    return
                peer = writer.get_extra_info("peername")[0]
                packed = await self._resolve(data, query, self._seen(peer))
                writer.write(len(packed).to_bytes(2, "big") + packed)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop's own transports do not derive from the abstract one.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._server.datagram(data, addr, self._transport)


def _parse(data: bytes) -> DNSRecord | None:
    try:
        record = DNSRecord.parse(data)
    except DNSError:
        return None
    return record if record.questions else None


def _alias(message: DNSRecord) -> str:
    """Where an answer's last record leads, if it is an alias."""
    last = message.rr[-1] if message.rr else None
    if last is None or QTYPE[last.rtype] != "CNAME":
        return ""
    return str(last.rdata.label).rstrip(".").lower()


def _leads_outside(message: DNSRecord, seen: Names) -> str:
    """The name that an answer's alias leaves to other servers."""
    target = _alias(message)
    asked = QTYPE[message.q.qtype]
    return target if target and asked in ("A", "AAAA") and not seen.owns(target) else ""


def _fit(answer: DNSRecord) -> bytes:
    """A datagram that fits; a longer one is cut, and the client asks by TCP."""
    packed = bytes(answer.pack())
    return packed if len(packed) <= _DATAGRAM else bytes(answer.truncate().pack())


async def _ask(server: str, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (server, 53))
        await loop.sock_sendall(sock, data)
        return await loop.sock_recv(sock, 4096)


def upstream_servers(resolv_conf: str, own: str) -> Sequence[str]:
    """The name servers of a resolv.conf that are not this one, IPv4 only."""
    servers = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and words[1] != own and ":" not in words[1]:
            servers.append(words[1])
    return servers
