"""Route tables from VirtualServices (mesh-semantics 1.2), and which of several counts."""

from collections.abc import Callable, Iterator, Sequence

from meltemi.api import networking as api
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.model.delegates import delegated_rules
from meltemi.model.hosts import candidates, export_list, is_visible
from meltemi.model.reach import unreachable_rules
from meltemi.model.route import MESH, HttpRule, RouteTable
from meltemi.model.rules import Reader

Lookup = Callable[[ObjectKey], api.VirtualService | None]


def table_from_virtual_service(
    obj: api.VirtualService, domain: str, lookup: Lookup
) -> Outcome[RouteTable]:
    """The routes a VirtualService declares, with every name resolved and every delegate's rules
    in the place that names it. `lookup` finds delegates."""
    spec, meta = obj.spec, obj.metadata
    reader = Reader(obj, domain)
    problems: list[Problem] = []
    http: list[HttpRule] = []
    for i, rule in enumerate(spec.http):
        path = f"spec.http[{i}]"
        if rule.delegate is None:
            http.append(reader.http(rule, path))
            continue
        namespace = rule.delegate.namespace or meta.namespace
        key = ObjectKey("VirtualService", namespace, rule.delegate.name)
        found = delegated_rules(reader.http(rule, path), key, lookup(key), domain)
        http.extend(found.rules)
        problems.extend(found.problems)
    table = RouteTable(
        source=ObjectKey("VirtualService", meta.namespace, meta.name),
        hosts=tuple(reader.host(h) for h in spec.hosts),
        gateways=reader.gateways(spec.gateways) or (MESH,),
        export_to=export_list(spec.export_to, meta.namespace),
        created=obj.age_order,
        http=tuple(http),
        tls=tuple(reader.l4(rule, f"spec.tls[{i}]") for i, rule in enumerate(spec.tls)),
        tcp=tuple(reader.l4(rule, f"spec.tcp[{i}]") for i, rule in enumerate(spec.tcp)),
    )
    return Outcome(table, (*dict.fromkeys(problems), *unreachable_rules(table)))


def table_for(
    host: str, tables: Sequence[RouteTable], namespace: str, layer: str = "http"
) -> RouteTable | None:
    """The table that sidecars in `namespace` apply to a host, for rules of one layer (`http`,
    `tls` or `tcp`): the most specific host wins, then the oldest table."""
    visible = [
        t
        for t in tables
        if t.speaks(layer) and MESH in t.named_gateways and is_visible(t.export_to, namespace)
    ]
    for name in candidates(host):
        fitting = [t for t in visible if name in t.hosts]
        if fitting:
            return min(fitting, key=lambda t: t.created)
    return None


def host_conflicts(table: RouteTable, others: Sequence[RouteTable]) -> Iterator[Problem]:
    """Hosts that an older table owns in the mesh: there, tables of one host are never merged.

    `others` are the tables that share a host with this one.
    """
    if MESH not in table.named_gateways:
        return
    for i, host in enumerate(table.hosts):
        older = [
            other
            for other in others
            if host in other.hosts and other.created < table.created and _competes(other, table)
        ]
        if older:
            first = min(older, key=lambda t: t.created)
            yield Problem(
                Code.HOST_CONFLICT,
                Severity.WARNING,
                table.source,
                f"spec.hosts[{i}]",
                f"{first.source} has rules for {host} too; it is older, and sidecars apply only "
                "the oldest for a host: move the rules into one of the two",
            )


def _competes(one: RouteTable, other: RouteTable) -> bool:
    """Whether some sidecar would have to choose between the two."""
    layers = any(one.speaks(layer) and other.speaks(layer) for layer in ("http", "tls", "tcp"))
    everywhere = "*" in one.export_to or "*" in other.export_to
    shared = everywhere or bool(set(one.export_to) & set(other.export_to))
    return layers and shared and MESH in one.named_gateways
