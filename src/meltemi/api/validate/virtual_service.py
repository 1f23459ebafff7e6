"""What a VirtualService may say (mesh-semantics 1.2)."""

from collections.abc import Iterator, Sequence

from meltemi.api import networking as net
from meltemi.api.validate import headers, words
from meltemi.api.validate.http_route import destination, http_rule
from meltemi.api.validate.words import Advice, Finding

_MESH = "mesh"
_LARGEST_SUM = 2**32 - 1


def virtual_service(spec: net.VirtualServiceSpec) -> Iterator[Finding]:
    yield from _hosts(spec)
    for i, name in enumerate(spec.gateways):
        yield from words.gateway(name, f"spec.gateways[{i}]")
    yield from words.namespaces(spec.export_to, "spec.exportTo")
    if not spec.hosts:
        yield from _delegate(spec)
    if not (spec.http or spec.tcp or spec.tls):
        yield "spec", "it routes nothing: give it http, tls or tcp rules"
    for i, rule in enumerate(spec.http):
        path = f"spec.http[{i}]"
        yield from http_rule(rule, path, delegated=not spec.hosts)
        if rule.route:
            yield from weights([(r.destination, r.weight) for r in rule.route], path)
            for j, route in enumerate(rule.route):
                yield from headers.edits(route.headers, f"{path}.route[{j}].headers")
    for i, tls in enumerate(spec.tls):
        path = f"spec.tls[{i}]"
        if not tls.match:
            yield f"{path}.match", "a tls rule needs a match with sniHosts"
        for j, match in enumerate(tls.match):
            yield from _sni(match, spec.hosts, f"{path}.match[{j}]")
            yield from _l4_match(match, f"{path}.match[{j}]")
        yield from weights([(r.destination, r.weight) for r in tls.route], path)
    for i, tcp in enumerate(spec.tcp):
        path = f"spec.tcp[{i}]"
        for j, attributes in enumerate(tcp.match):
            yield from _l4_match(attributes, f"{path}.match[{j}]")
        yield from weights([(r.destination, r.weight) for r in tcp.route], path)


def _hosts(spec: net.VirtualServiceSpec) -> Iterator[Finding]:
    for i, host in enumerate(spec.hosts):
        path = f"spec.hosts[{i}]"
        yield from words.host(host, path)
        if host in spec.hosts[:i]:
            yield path, f"{host!r} is there twice: remove one"
        if host == "*" and _MESH in (spec.gateways or (_MESH,)):
            yield path, '"*" would take every service of the mesh: name hosts, or only gateways'


def _delegate(spec: net.VirtualServiceSpec) -> Iterator[Finding]:
    """Without hosts it is a delegate, which only rules of others lead to."""
    if spec.gateways:
        yield "spec.gateways", "a delegate (no hosts) has no gateways: they are those of its roots"
    if spec.tls or spec.tcp:
        layer = "tls" if spec.tls else "tcp"
        yield f"spec.{layer}", "a delegate (no hosts) has http rules only"


def _sni(match: net.TLSMatchAttributes, hosts: Sequence[str], path: str) -> Iterator[Finding]:
    if not match.sni_hosts:
        yield f"{path}.sniHosts", "at least one SNI host is needed"
    for i, name in enumerate(match.sni_hosts):
        where = f"{path}.sniHosts[{i}]"
        yield from words.host(name, where)
        if name in match.sni_hosts[:i]:
            yield where, f"{name!r} is there twice: remove one"
        if not any(_within(name, host) for host in hosts):
            yield where, f"{name[:80]!r} is under none of spec.hosts: add it there"


def _within(name: str, host: str) -> bool:
    """A short host stands for the full name of a service too."""
    if host.startswith("*."):
        return name.endswith(host[1:])
    return host in ("*", name) or ("." not in host and name.startswith(f"{host}."))


def _l4_match(match: net.L4MatchAttributes, path: str) -> Iterator[Finding]:
    for i, text in enumerate(match.destination_subnets):
        yield from words.subnet(text, f"{path}.destinationSubnets[{i}]")
    if match.port:
        yield from words.port(match.port, f"{path}.port")
    yield from words.labels(match.source_labels, f"{path}.sourceLabels")
    for i, name in enumerate(match.gateways):
        yield from words.gateway(name, f"{path}.gateways[{i}]")
    if match.source_subnet:
        yield Advice(
            f"{path}.sourceSubnet",
            "it is not tested, here as in Istio: use sourceLabels or sourceNamespace",
        )


def weights(routes: Sequence[tuple[net.Destination, int]], path: str) -> Iterator[Finding]:
    """The destinations of one rule and their shares."""
    if not routes:
        yield f"{path}.route", "at least one destination is needed"
    for i, (target, weight) in enumerate(routes):
        yield from destination(target, f"{path}.route[{i}].destination")
        yield from words.count(weight, f"{path}.route[{i}].weight")
    total = sum(weight for _, weight in routes)
    if len(routes) > 1 and total == 0:
        yield (
            f"{path}.route",
            "the weights of several destinations must not all be zero: give each its share",
        )
    if total > _LARGEST_SUM:
        yield f"{path}.route", f"the weights add up to more than {_LARGEST_SUM}"
