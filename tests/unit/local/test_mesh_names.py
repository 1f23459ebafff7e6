"""The mesh's name server: ServiceEntries beside Services, as each namespace sees them."""

import asyncio
import json
import socket

import msgspec
from dnslib import RCODE, DNSRecord

from meltemi.base.keys import ObjectKey
from meltemi.inject.rules import capture_rules
from meltemi.local.node.entries import EntryTable
from meltemi.local.node.names import NameServer, Zone
from meltemi.local.node.services import ServiceTable


class Event(msgspec.Struct, frozen=True):
    key: ObjectKey
    raw: bytes | None


def entry(name: str, host: str, *addresses: str, namespace: str = "shop", **more: object) -> Event:
    body = {
        "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": name},
        "spec": {
            "hosts": [host],
            "addresses": addresses,
            "ports": [{"number": 80, "name": "http"}],
            "resolution": "STATIC",
            **more,
        },
        "status": {"addresses": [{"value": "240.240.0.7", "host": host}]},
    }
    return Event(ObjectKey("ServiceEntry", namespace, name), json.dumps(body).encode())


def service(name: str, ip: str) -> Event:
    body = {
        "metadata": {"uid": name},
        "spec": {"clusterIP": ip, "ports": [{"port": 80, "name": "http"}]},
    }
    return Event(ObjectKey("Service", "shop", name), json.dumps(body).encode())


class Asked:
    """A name server on a socket of its own."""

    def __init__(self, *events: Event, ready: bool = True) -> None:
        table, entries = ServiceTable(), EntryTable()
        table.deliver([e for e in events if e.key.kind == "Service"])
        entries.deliver([e for e in events if e.key.kind == "ServiceEntry"])
        self.entries = entries
        self._server = NameServer(Zone(table), (), entries)
        self._server.know(lambda _ip: "", lambda: ready)

    def ask(self, name: str, kind: str = "A", namespace: str = "shop") -> tuple[str, list[str]]:
        return asyncio.run(self._ask(name, kind, namespace))

    async def _ask(self, name: str, kind: str, namespace: str) -> tuple[str, list[str]]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("127.0.0.1", 0))
        streams = socket.create_server(("127.0.0.1", 0))
        where = streams.getsockname()
        server = self._server.of_namespace(namespace)
        task = asyncio.create_task(server.serve_on(datagrams, streams))
        try:
            reader, writer = await asyncio.open_connection(*where)
            question = bytes(DNSRecord.question(name, kind).pack())
            writer.write(len(question).to_bytes(2, "big") + question)
            size = int.from_bytes(await reader.readexactly(2), "big")
            found = DNSRecord.parse(await reader.readexactly(size))
            writer.close()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return RCODE[found.header.rcode], [str(r.rdata) for r in found.rr]


def test_hosts_have_their_own_or_allocated_addresses() -> None:
    asked = Asked(entry("a", "own.example.com", "10.9.9.9"), entry("b", "given.example.com"))
    assert asked.ask("own.example.com") == ("NOERROR", ["10.9.9.9"])
    assert asked.ask("given.example.com") == ("NOERROR", ["240.240.0.7"])
    assert asked.ask("own.example.com", "AAAA") == ("NOERROR", [])
    assert asked.ask("other.example.com")[0] == "NXDOMAIN"


def test_the_longest_wildcard_answers_where_no_exact_host_does() -> None:
    asked = Asked(
        entry("a", "*.example.com", "10.9.9.1"),
        entry("b", "*.deep.example.com", "10.9.9.2"),
        entry("c", "x.deep.example.com", "10.9.9.3"),
    )
    assert asked.ask("a.b.example.com")[1] == ["10.9.9.1"]
    assert asked.ask("y.deep.example.com")[1] == ["10.9.9.2"]
    assert asked.ask("x.deep.example.com")[1] == ["10.9.9.3"]


def test_a_name_is_answered_only_where_it_is_exported() -> None:
    hidden = entry("a", "own.example.com", "10.9.9.9", exportTo=["."])
    mine = entry("b", "own.example.com", "10.9.9.8", namespace="tools")
    asked = Asked(hidden, mine)
    assert asked.ask("own.example.com", namespace="shop")[1] == ["10.9.9.9"]
    assert asked.ask("own.example.com", namespace="tools")[1] == ["10.9.9.8"]
    asked.entries.deliver([Event(mine.key, None)])
    assert asked.ask("own.example.com", namespace="tools")[0] == "NXDOMAIN"


def test_services_come_before_entries_of_their_name() -> None:
    name = "web.shop.svc.cluster.local"
    asked = Asked(service("web", "10.43.0.9"), entry("a", name, "10.9.9.9"))
    assert asked.ask(name)[1] == ["10.43.0.9"]
    only = Asked(entry("a", name, "10.9.9.9"))
    assert only.ask(name)[1] == ["10.9.9.9"]


def test_nothing_is_answered_before_the_first_table() -> None:
    asked = Asked(entry("a", "own.example.com", "10.9.9.9"), ready=False)
    assert asked.ask("own.example.com") == ("SERVFAIL", [])


def test_questions_are_captured_on_demand() -> None:
    captured = capture_rules(["--redirect-dns"])
    assert "udp dport 53 redirect to :15053" in captured
    assert captured.index("meta skuid 1337 return") < captured.index("udp dport 53")
    assert "15053" not in capture_rules([])
