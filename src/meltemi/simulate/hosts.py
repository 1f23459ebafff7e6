"""Which virtual host a request's authority means."""

from collections.abc import Sequence

from meltemi.compile import ir


def without_port(authority: str) -> str:
    """An authority as it is compared: in lower case, without a port."""
    host, colon, port = authority.lower().rpartition(":")
    is_port = colon and port.isascii() and port.isdecimal() and int(port) < 65536
    in_address = host.startswith("[") and not host.endswith("]")
    if not is_port or in_address or (":" in host and not host.startswith("[")):
        return authority.lower()
    return host


def port_of(authority: str) -> int:
    """The port in an authority; 0: none."""
    host = without_port(authority)
    return 0 if len(host) == len(authority) else int(authority[len(host) + 1 :])


def host_of(hosts: Sequence[ir.VirtualHost], authority: str) -> tuple[ir.VirtualHost, str] | None:
    """The virtual host, and the domain of it that matches: the exact name, then the longest
    `*.suffix`, then the longest `prefix.*`, then `*`."""
    name = without_port(authority)
    suffix = prefix = exact = anything = None
    for host in hosts:
        for domain in host.domains:
            wanted = domain.lower()
            if wanted == "*":
                anything = anything or (host, domain)
            elif wanted.startswith("*"):
                fits = name.endswith(wanted[1:]) and len(name) >= len(wanted)
                if fits and (suffix is None or len(domain) > len(suffix[1])):
                    suffix = (host, domain)
            elif wanted.endswith("*"):
                fits = name.startswith(wanted[:-1]) and len(name) >= len(wanted)
                if fits and (prefix is None or len(domain) > len(prefix[1])):
                    prefix = (host, domain)
            elif wanted == name:
                exact = exact or (host, domain)
    return exact or suffix or prefix or anything
