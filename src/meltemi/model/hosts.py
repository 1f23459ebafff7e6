"""Names and visibility: the rules of mesh-semantics 1.1, in one place."""

from collections.abc import Iterable, Iterator, Sequence

PUBLIC = ("*",)


def full_host(host: str, namespace: str, domain: str) -> str:
    """Resolve a host as the rule's namespace sees it: only names without a dot are expanded."""
    if "." in host or host == "*" or ":" in host:
        return host.lower()
    return f"{host.lower()}.{namespace}.svc.{domain}"


def full_gateway(gateway: str, namespace: str) -> str:
    """`mesh`, or `namespace/name`; a bare name means the rule's own namespace."""
    if gateway == "mesh" or "/" in gateway:
        return gateway
    parts = gateway.split(".")
    if len(parts) > 2 and parts[2] == "svc":
        return f"{parts[1]}/{parts[0]}"
    return f"{namespace}/{gateway}"


def matches_host(pattern: str, host: str) -> bool:
    """Whether a host, itself maybe a wildcard, falls under a pattern; only `*` at the left."""
    if pattern in ("*", host):
        return True
    if pattern.startswith("*"):
        return host.endswith(pattern[1:])
    return False


def hosts_overlap(one: str, other: str) -> bool:
    """Whether some host falls under both patterns."""
    return matches_host(one, other) or matches_host(other, one)


def narrower(one: str, other: str) -> str:
    """Of two patterns that overlap, the one that covers less."""
    return one if matches_host(other, one) else other


def wildcards_over(host: str) -> Iterator[str]:
    """The wildcard patterns that cover a host, most specific first: `*.b.c`, `*.c`, `*`."""
    rest = host[2:] if host.startswith("*.") else host
    while "." in rest:
        _, _, rest = rest.partition(".")
        yield f"*.{rest}"
    yield "*"


def candidates(host: str) -> Iterator[str]:
    """The names a rule for this host may stand under, most specific first."""
    yield host
    yield from wildcards_over(host)


def export_list(declared: Sequence[str], namespace: str) -> tuple[str, ...]:
    """`exportTo` in its resolved form: `("*",)`, `()` for `~`, or namespaces; `.` is resolved."""
    if not declared or "*" in declared:
        return PUBLIC
    return tuple(sorted({namespace if n == "." else n for n in declared if n != "~"}))


def is_visible(export_to: Sequence[str], namespace: str) -> bool:
    """Whether what is exported to these namespaces may be seen from this one."""
    return "*" in export_to or namespace in export_to


def selects(selector: Iterable[tuple[str, str]], labels: dict[str, str]) -> bool:
    """Whether every wanted label is there."""
    return all(labels.get(name) == value for name, value in selector)
