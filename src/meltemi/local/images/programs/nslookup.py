"""nslookup NAME [SERVER]: what the pod's name server answers."""

import sys
from collections.abc import Mapping, Sequence

from dnslib import QTYPE, RCODE, DNSRecord

_SECONDS = 5.0


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Options such as -type=srv choose the record; without any A and AAAA are asked for."""
    words = [word for word in argv if not word.startswith("-")]
    types = [
        w.partition("=")[2].upper() for w in argv if w.startswith(("-type=", "-query=", "-q="))
    ]
    if not words:
        print("usage: nslookup [-type=TYPE] NAME [SERVER]", file=sys.stderr)
        return 2
    servers, searches, dots = _resolv_conf()
    server = words[1] if len(words) > 1 else (servers or ["127.0.0.1"])[0]
    print(f"Server:\t\t{server}\nAddress:\t{server}:53\n")
    for name in _candidates(words[0], searches, dots):
        if _show(name, server, types or ["A", "AAAA"]):
            return 0
    print(f"** server can't find {words[0]}: NXDOMAIN", file=sys.stderr)
    return 1


def _resolv_conf() -> tuple[Sequence[str], Sequence[str], int]:
    """(servers, search list, ndots)."""
    servers: list[str] = []
    searches: Sequence[str] = ()
    dots = 1
    with open("/etc/resolv.conf", encoding="utf-8") as file:
        for line in file:
            match line.split():
                case ["nameserver", address]:
                    servers.append(address)
                case ["search", *names]:
                    searches = names
                case ["options", *options]:
                    dots = next((int(o[6:]) for o in options if o.startswith("ndots:")), dots)
    return servers, searches, dots


def _candidates(name: str, searches: Sequence[str], dots: int) -> Sequence[str]:
    if name.endswith("."):
        return [name]
    longer = [f"{name}.{search}" for search in searches]
    return [name, *longer] if name.count(".") >= dots else [*longer, name]


def _show(name: str, server: str, types: Sequence[str]) -> bool:
    """Whether there was anything to show."""
    found = False
    for kind in types:
        try:
            question = DNSRecord.question(name, kind)
            said = question.send(server, timeout=_SECONDS, ipv6=":" in server)
            answer = DNSRecord.parse(said)
        except (TimeoutError, OSError) as error:
            print(f";; connection to {server}: {error}", file=sys.stderr)
            return False
        if RCODE[answer.header.rcode] != "NOERROR":
            continue
        for record in answer.rr:
            found = True
            label = {"A": "Address", "AAAA": "Address", "CNAME": "canonical name"}.get(
                QTYPE[record.rtype], QTYPE[record.rtype]
            )
            print(f"Name:\t{record.rname}\n{label}: {record.rdata}")
    return found
