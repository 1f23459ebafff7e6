"""TLS and TCP routes: which connections of one client go where."""

import datetime
import json

import yaml

from meltemi.api import networking as net
from meltemi.api.decode import decode
from meltemi.base.keys import HostKey, ObjectKey
from meltemi.base.problems import Code
from meltemi.compile.plan.destinations import Client, Resolver
from meltemi.compile.plan.l4 import PlannedL4, default_forward, tcp_routes, tls_routes
from meltemi.model.policies import merged_policy
from meltemi.model.policy import DestinationPolicy
from meltemi.model.route import RouteTable
from meltemi.model.service import Port, Protocol, Resolution, Service
from meltemi.model.tables import table_from_virtual_service

DOMAIN = "svc.cluster.local"
CLIENT = Client("mesh", "default", (("app", "web"),), 3306)
RULE = """
host: db
trafficPolicy:
  connectionPool: {tcp: {idleTimeout: 5s, maxConnectionDuration: 1m}}
  loadBalancer: {consistentHash: {useSourceIp: true}}
  tunnel: {protocol: CONNECT, targetHost: far.example, targetPort: 443}
subsets: [{name: v1, labels: {version: v1}}]
"""


def service(name: str, *ports: int, alias: str = "") -> Service:
    host = f"{name}.default.{DOMAIN}"
    return Service(
        key=HostKey("default", host),
        source=ObjectKey("Service", "default", name),
        name=name,
        host=host,
        aliases=(),
        addresses=("10.43.0.9",),
        ports=tuple(Port(p, "tcp", Protocol.TCP, p) for p in ports),
        resolution=Resolution.ALIAS if alias else Resolution.ENDPOINTS,
        selector={},
        export_to=("*",),
        created=("", name, "default"),
        external_name=alias,
    )


def table(text: str) -> RouteTable:
    body = {"metadata": {"name": "routes", "namespace": "default"}, "spec": yaml.safe_load(text)}
    found = decode("VirtualService", json.dumps(body).encode()).value
    assert isinstance(found, net.VirtualService)
    outcome = table_from_virtual_service(found, "cluster.local", lambda _key: None)
    assert outcome.value is not None
    return outcome.value


def policy(text: str) -> DestinationPolicy:
    body = {"metadata": {"name": "db", "namespace": "default"}, "spec": yaml.safe_load(text)}
    rule = decode("DestinationRule", json.dumps(body).encode()).value
    assert isinstance(rule, net.DestinationRule)
    (outcome,) = merged_policy(rule, [rule], "cluster.local").values()
    assert outcome.value is not None
    return outcome.value


def resolver() -> Resolver:
    services = [
        service("db", 3306),
        service("two", 1, 2),
        service("far", alias=f"db.default.{DOMAIN}"),
    ]
    known = {s.host: s for s in services}
    policies = {f"db.default.{DOMAIN}": policy(RULE)}
    return Resolver(known.get, policies.get)


def sent(planned: PlannedL4) -> list[tuple[tuple[str, ...], tuple[str, ...], str]]:
    return [(r.sni_hosts, r.subnets, r.forward.clusters[0].cluster) for r in planned.routes]


def test_tcp_rules_apply_by_port_source_and_gateway() -> None:
    routes = table("""
hosts: [db]
tcp:
- match: [{port: 1}]
  route: [{destination: {host: two, port: {number: 1}}}]
- match: [{sourceLabels: {app: other}}, {sourceNamespace: other}, {gateways: [front]}]
  route: [{destination: {host: two, port: {number: 1}}}]
- match: [{destinationSubnets: [10.0.0.0/8], sourceLabels: {app: web}, port: 3306}]
  route: [{destination: {host: two, port: {number: 2}}}]
- route: [{destination: {host: db, subset: v1}}]
""")
    planned = tcp_routes(routes, CLIENT, resolver())
    assert sent(planned) == [
        ((), ("10.0.0.0/8",), f"outbound|2||two.default.{DOMAIN}"),
        ((), (), f"outbound|3306|v1|db.default.{DOMAIN}"),
    ]
    assert planned.problems == ()
    at_gateway = CLIENT._replace(gateway="default/front", port=1)
    assert len(tcp_routes(routes, at_gateway, resolver()).routes) == 1


def test_tls_rules_are_told_apart_by_sni_and_what_never_applies_is_reported() -> None:
    routes = table("""
hosts: [a.example, b.example]
tls:
- match: [{sniHosts: [a.example], port: 3306}]
  route: [{destination: {host: db}, weight: 75}, {destination: {host: db, subset: v1}, weight: 25}]
- match: [{sniHosts: [a.example, b.example]}, {sniHosts: [a.example]}]
  route: [{destination: {host: nowhere}}]
""")
    planned = tls_routes(routes, CLIENT, resolver())
    assert [r.sni_hosts for r in planned.routes] == [("a.example",), ("b.example",)]
    assert [c.weight for c in planned.routes[0].forward.clusters] == [75, 25]
    assert [(p.code, p.path) for p in planned.problems] == [
        (Code.UNKNOWN_HOST, "spec.tls[1].route[0].destination.host"),
        (Code.UNREACHABLE_ROUTE, "spec.tls[1].match[1]"),
    ]


def test_a_connection_is_kept_as_the_first_destinations_policy_says() -> None:
    forward = default_forward(f"db.default.{DOMAIN}", 3306, resolver())
    assert forward.idle_timeout == datetime.timedelta(seconds=5)
    assert forward.longest == datetime.timedelta(minutes=1)
    assert forward.hash_source
    assert forward.tunnel == net.Tunnel(
        protocol="CONNECT", target_host="far.example", target_port=443
    )


def test_an_external_name_leads_to_the_service_it_names() -> None:
    routes = table("hosts: [db]\ntcp: [{route: [{destination: {host: far}}]}]")
    planned = tcp_routes(routes, CLIENT, resolver())
    assert sent(planned) == [((), (), f"outbound|3306||db.default.{DOMAIN}")]
    assert planned.problems == ()
