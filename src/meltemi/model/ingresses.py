"""Kubernetes Ingress, a front end of its own onto gateways and route tables (mesh-semantics 1.16).

https://kubernetes.io/docs/concepts/services-networking/ingress/
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from meltemi.api import ingress as api
from meltemi.api.mesh_config import MeshConfig
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity
from meltemi.flow import Fetch, Index, View
from meltemi.model.gateway import INGRESS, ClientCheck, GatewayDef, Server, ServerHost, Terminate
from meltemi.model.hosts import PUBLIC
from meltemi.model.ingress import HostRules, IngressSettings, PathRule
from meltemi.model.mesh import MESH
from meltemi.model.route import (
    DirectResponse,
    Exact,
    Forward,
    HttpMatch,
    HttpRule,
    Matcher,
    Prefix,
    RouteTable,
    Target,
    Weighted,
)
from meltemi.model.service import Protocol, Service

CONTROLLER = "istio.io/ingress-controller"
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_HTTP, _HTTPS = 80, 443
_LAST = 1 << 20
_NOBODY = ObjectKey("Ingress", "", "")

RULES_BY_HOST: Index[HostRules] = Index("host", lambda r: (r.host,))


class RulesKey(NamedTuple):
    ingress: ObjectKey
    host: str


class Ingresses:
    """Transforms that read classes and services."""

    def __init__(
        self,
        classes: View[ObjectKey, api.IngressClass],
        services: View[HostKey, Service],
        settings: View[str, IngressSettings],
        domain: str,
    ) -> None:
        self._settings = settings
        self._classes = classes
        self._services = services
        self._domain = domain

    def gateway(
        self, fetch: Fetch, key: ObjectKey, obj: api.Ingress
    ) -> Mapping[ObjectKey, Outcome[GatewayDef]]:
        """The servers an Ingress asks for: port 80, and 443 for each of its certificates."""
        if not self._is_ours(fetch, obj):
            return {}
        everyone = (ServerHost("*", "*"),)
        servers = [Server(_HTTP, "http", Protocol.HTTP, everyone, "", None, False, "spec.rules")]
        problems: list[Problem] = []
        for i, tls in enumerate(obj.spec.tls):
            path = f"spec.tls[{i}]"
            if tls.secret_name:
                servers.append(_tls_server(key, tls, i))
            else:
                message = "name the Secret with the certificate: TLS does not work without one"
                where = f"{path}.secretName"
                problems.append(Problem(Code.MISSING_FIELD, Severity.ERROR, key, where, message))
        selector = {"istio": self._of(fetch).selector}
        found = GatewayDef(INGRESS, key, selector, tuple(servers), obj.age_order)
        return {key: Outcome(found, tuple(problems))}

    def rules(
        self, fetch: Fetch, key: ObjectKey, obj: api.Ingress
    ) -> Mapping[RulesKey, Outcome[HostRules]]:
        """What an Ingress says about each host it names."""
        if not self._is_ours(fetch, obj):
            return {}
        reader = _Reader(fetch, self._services, key, self._domain)
        fallback = reader.default(obj.spec.default_backend)
        paths: dict[str, list[PathRule]] = {}
        for i, rule in enumerate(obj.spec.rules):
            there = paths.setdefault(rule.host.lower() or "*", [])
            for j, item in enumerate(rule.http.paths if rule.http else ()):
                there.append(reader.path(item, f"spec.rules[{i}].http.paths[{j}]"))
        if fallback is not None:
            paths.setdefault("*", [])
        found = {
            RulesKey(key, host): Outcome(
                HostRules(host, key, obj.age_order, tuple(rules), fallback)
            )
            for host, rules in paths.items()
        }
        if found and reader.problems:
            first = next(iter(found))
            found[first] = Outcome(found[first].value, tuple(reader.problems))
        return found

    def _is_ours(self, fetch: Fetch, obj: api.Ingress) -> bool:
        settings = self._of(fetch)
        if settings.mode == "OFF":
            return False
        annotated = obj.metadata.annotations.get(_CLASS_ANNOTATION)
        if annotated is not None:
            return annotated == settings.class_name
        name = obj.spec.ingress_class_name
        if not name:
            return settings.mode == "DEFAULT"
        found = fetch.get(self._classes, ObjectKey("IngressClass", "", name))
        if found is not None:
            return found.spec.controller == CONTROLLER
        return name == settings.class_name

    def _of(self, fetch: Fetch) -> IngressSettings:
        return fetch.get(self._settings, MESH) or IngressSettings()


def ingress_settings(
    _fetch: Fetch, key: str, config: MeshConfig
) -> Mapping[str, Outcome[IngressSettings]]:
    """Apart from the rest of MeshConfig, whose changes leave Ingress objects alone."""
    found = IngressSettings(
        config.ingress_class or IngressSettings().class_name,
        config.ingress_controller_mode,
        config.ingress_selector or IngressSettings().selector,
    )
    return {key: Outcome(found)}


def _tls_server(key: ObjectKey, tls: api.IngressTLS, index: int) -> Server:
    hosts = tuple(ServerHost("*", host.lower()) for host in tls.hosts) or (ServerHost("*", "*"),)
    return Server(
        port=_HTTPS,
        port_name=f"https-443-ingress-{key.name}-{key.namespace}-{index}",
        protocol=Protocol.HTTP,
        hosts=hosts,
        bind="",
        tls=Terminate(ClientCheck.NONE, credentials=(tls.secret_name,)),
        https_redirect=False,
        path=f"spec.tls[{index}]",
    )


def table_of_host(
    fetch: Fetch, host: str, rules: View[RulesKey, HostRules]
) -> Mapping[str, Outcome[RouteTable]]:
    """All Ingress objects about one host, in one table: the most specific path first, then the
    oldest object."""
    found = sorted(fetch.by(rules, RULES_BY_HOST, host), key=lambda r: r.created)
    if not found:
        return {}
    ranked = sorted((path for part in found for path in part.paths), key=lambda p: p.rank)
    fallbacks = [part.fallback for part in found if part.fallback is not None]
    kept: dict[tuple[Matcher | None, ...], HttpRule] = {}
    problems: list[Problem] = []
    for rule in (path.rule for path in ranked):
        winner = kept.setdefault(tuple(match.path for match in rule.matches), rule)
        if winner is not rule:
            problems.append(_shadowed(host, rule, winner))
    table = RouteTable(
        source=found[0].source,
        hosts=(host,),
        gateways=(INGRESS,),
        export_to=PUBLIC,
        created=found[0].created,
        http=(*kept.values(), *fallbacks[:1]),
    )
    return {host: Outcome(table, tuple(problems))}


def _shadowed(host: str, rule: HttpRule, winner: HttpRule) -> Problem:
    return Problem(
        Code.UNREACHABLE_ROUTE,
        Severity.WARNING,
        rule.source or _NOBODY,
        f"{rule.path}.path",
        f"{winner.source} already leads this path of host {host} elsewhere, and is older; remove "
        "one of the two",
    )


class _Reader:
    """Reads the paths of one Ingress."""

    def __init__(
        self,
        fetch: Fetch,
        services: View[HostKey, Service],
        key: ObjectKey,
        domain: str,
    ) -> None:
        self._fetch = fetch
        self._services = services
        self._key = key
        self._domain = domain
        self.problems: list[Problem] = []

    def default(self, backend: api.IngressBackend | None) -> HttpRule | None:
        if backend is None:
            return None
        return self._rule((), backend, "spec.defaultBackend", "spec.defaultBackend")

    def path(self, item: api.HTTPIngressPath, where: str) -> PathRule:
        matches = tuple(msgspec.structs.replace(m, field=where) for m in _matches(item))
        exact = item.path_type == "Exact"
        rank = (-len(item.path.rstrip("/")) if matches else _LAST, 0 if exact else 1)
        return PathRule(rank, self._rule(matches, item.backend, where, f"{where}.backend"))

    def _rule(
        self, matches: Sequence[HttpMatch], backend: api.IngressBackend, where: str, path: str
    ) -> HttpRule:
        return HttpRule(
            name="",
            path=where,
            matches=tuple(matches),
            action=self._action(backend, path),
            source=self._key,
        )

    def _action(self, backend: api.IngressBackend, path: str) -> Forward | DirectResponse:
        """The Service's port; what cannot be found answers 503, as an empty Service does."""
        service = backend.service
        if service is None:
            message = "resource backends are not supported: name a Service"
            self._report(Code.NOT_SUPPORTED, f"{path}.resource", message)
            return DirectResponse(503)
        host = f"{service.name}.{self._key.namespace}.svc.{self._domain}"
        port = service.port.number
        if service.port.name:
            port = self._named_port(host, service.port.name)
        if not port:
            message = f"Service {service.name} has no port {service.port.name!r}: requests get 503"
            self._report(Code.UNKNOWN_PORT, f"{path}.service.port.name", message)
            return DirectResponse(503)
        return Forward((Weighted(Target(host, "", port, f"{path}.service"), 100),))

    def _named_port(self, host: str, name: str) -> int:
        found = self._fetch.get(self._services, HostKey(self._key.namespace, host))
        ports = found.ports if found is not None else ()
        return next((p.number for p in ports if p.name == name), 0)

    def _report(self, code: Code, path: str, message: str) -> None:
        self.problems.append(Problem(code, Severity.ERROR, self._key, path, message))


def _matches(item: api.HTTPIngressPath) -> Iterator[HttpMatch]:
    """A prefix means whole path elements: `/a` takes `/a` and `/a/b`, not `/ab`. What is left to
    the implementation is exact, or a plain prefix where it ends with `*`, as in Istio."""
    path = item.path
    if item.path_type == "Exact":
        yield HttpMatch(path=Exact(path))
    elif item.path_type == "Prefix":
        bare = path.rstrip("/")
        if bare:
            yield HttpMatch(path=Exact(bare))
            yield HttpMatch(path=Prefix(f"{bare}/"))
    elif path.endswith((".*", "/*")):
        start = path.removesuffix(".*") if path.endswith(".*") else path[:-1]
        if start not in ("", "/"):
            yield HttpMatch(path=Prefix(start))
    elif path not in ("", "/"):
        yield HttpMatch(path=Exact(path))
