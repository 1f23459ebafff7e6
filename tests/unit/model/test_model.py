"""What objects mean: names, protocols, endpoints, policies, routes."""

import datetime
from typing import TYPE_CHECKING

import pytest
import yaml

from meltemi.base.keys import HostKey, ObjectKey, ServicePortKey, WorkloadKey
from meltemi.base.problems import Code
from meltemi.model.build import POLICY_BY_HOST
from meltemi.model.hosts import candidates, export_list, full_gateway, full_host, matches_host
from meltemi.model.policies import choose_policy, policies_over
from meltemi.model.protocols import protocol_of
from meltemi.model.route import Exact, Forward, Present
from meltemi.model.service import Protocol, Resolution
from meltemi.model.tls import Mode

REVIEWS = "reviews.default.svc.cluster.local"

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.43.0.7
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: 9081}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata:
  name: reviews-v1-abc-x
  labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio, pod-template-hash: abc}
  ownerReferences: [{kind: ReplicaSet, name: reviews-v1-abc, controller: true}]
spec:
  serviceAccountName: bookinfo-reviews
  containers: [{name: reviews, ports: [{name: web, containerPort: 9081}]}]
status: {phase: Running, podIP: 10.44.0.5, conditions: [{type: Ready, status: "True"}]}
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9081, protocol: TCP}]
endpoints:
- addresses: [10.44.0.5]
  conditions: {ready: true}
  targetRef: {kind: Pod, name: reviews-v1-abc-x, namespace: default}
"""


if TYPE_CHECKING:
    from tests.unit.model.conftest import World


def peer_authentication(name: str, mode: str, namespace: str = "default", **spec: object) -> str:
    body = {
        "kind": "PeerAuthentication",
        "apiVersion": "security.istio.io/v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"mtls": {"mode": mode}, **spec},
    }
    return yaml.safe_dump(body)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("reviews", "reviews.shop.svc.cluster.local"),
        ("reviews.other", "reviews.other"),
        ("*", "*"),
        ("10.0.0.1", "10.0.0.1"),
        ("*.example.com", "*.example.com"),
    ],
)
def test_only_names_without_a_dot_are_expanded(host: str, expected: str) -> None:
    assert full_host(host, "shop", "cluster.local") == expected


def test_gateway_names_resolve_against_the_rules_namespace() -> None:
    assert full_gateway("mesh", "shop") == "mesh"
    assert full_gateway("front", "shop") == "shop/front"
    assert full_gateway("infra/front", "shop") == "infra/front"
    assert full_gateway("front.infra.svc.cluster.local", "shop") == "infra/front"


def test_candidates_go_from_exact_to_any() -> None:
    assert list(candidates("a.b.c")) == ["a.b.c", "*.b.c", "*.c", "*"]
    assert matches_host("*.b.c", "a.b.c")
    assert not matches_host("*.b.c", "b.c")


def test_export_list() -> None:
    assert export_list((), "shop") == ("*",)
    assert export_list((".",), "shop") == ("shop",)
    assert export_list(("~",), "shop") == ()
    assert export_list((".", "*"), "shop") == ("*",)


@pytest.mark.parametrize(
    ("name", "app_protocol", "number", "expected"),
    [
        ("http", None, 80, Protocol.HTTP),
        ("HTTP-web", None, 80, Protocol.HTTP),
        ("grpc-web-x", None, 80, Protocol.GRPC_WEB),
        ("https", None, 443, Protocol.TLS),
        ("web", "kubernetes.io/h2c", 80, Protocol.HTTP2),
        ("tcp-x", "http", 80, Protocol.HTTP),
        ("web", None, 80, Protocol.AUTO),
        ("db", None, 3306, Protocol.TCP),
        ("httpx", None, 80, Protocol.AUTO),
    ],
)
def test_protocol_selection(
    name: str, app_protocol: str | None, number: int, expected: Protocol
) -> None:
    assert protocol_of(number, name, app_protocol, "TCP") is expected


def test_a_service_with_its_endpoints(world: "World") -> None:
    world.apply(SERVICE + "---" + POD + "---" + SLICE)
    model = world.model
    service = model.services.get(HostKey("default", REVIEWS))
    assert service.addresses == ("10.43.0.7",)
    assert service.resolution is Resolution.ENDPOINTS
    endpoints = model.endpoints.get(ServicePortKey("default", REVIEWS, 9080))
    (endpoint,) = endpoints.endpoints
    assert (endpoint.address, endpoint.port, endpoint.mtls) == ("10.44.0.5", 9081, True)
    assert endpoint.workload == "reviews-v1"
    assert endpoints.identities == ("spiffe://cluster.local/ns/default/sa/bookinfo-reviews",)
    world.graph.verify()


def test_an_endpoint_flip_touches_endpoints_only(world: "World") -> None:
    world.apply(SERVICE + "---" + POD + "---" + SLICE)
    runs = {view.name: view.runs for view in world.graph._derived}
    world.apply(SLICE.replace("ready: true", "ready: false"))
    assert world.model.endpoints.get(ServicePortKey("default", REVIEWS, 9080)).ready == ()
    again = {v.name: v.runs - runs[v.name] for v in world.graph._derived if v.runs > runs[v.name]}
    assert again == {"EndpointSlice": 1, "endpoints": 1}


def test_peer_authentication_levels(world: "World") -> None:
    key = WorkloadKey("default", "reviews-v1-abc-x")
    world.apply(POD)
    assert world.model.inbound_tls.get(key).mode is Mode.PERMISSIVE
    world.apply(peer_authentication("default", "STRICT", "istio-system"))
    assert world.model.inbound_tls.get(key).mode is Mode.STRICT
    world.apply(peer_authentication("ns", "DISABLE"))
    assert world.model.inbound_tls.get(key).mode is Mode.DISABLE
    world.apply(
        peer_authentication(
            "own",
            "UNSET",
            selector={"matchLabels": {"app": "reviews"}},
            portLevelMtls={"9081": {"mode": "STRICT"}},
        )
    )
    tls = world.model.inbound_tls.get(key)
    assert tls.mode is Mode.DISABLE
    assert tls.for_port(9081) is Mode.STRICT
    world.graph.verify()


def test_the_oldest_policy_of_a_level_decides(world: "World") -> None:
    world.apply(POD)
    world.apply(
        peer_authentication("first", "STRICT") + "---\n" + peer_authentication("a", "DISABLE")
    )
    key = WorkloadKey("default", "reviews-v1-abc-x")
    assert world.model.inbound_tls.get(key).mode is Mode.STRICT


RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME, namespace: NS}
spec:
  host: "HOST"
  subsets: [{name: SUBSET, labels: {version: SUBSET}}]
"""


def rule(name: str, host: str, subset: str, namespace: str = "default") -> str:
    text = RULE.replace("NAME", name).replace("HOST", host).replace("SUBSET", subset)
    return text.replace("NS", namespace)


def test_rules_of_one_host_merge_and_duplicates_are_reported(world: "World") -> None:
    world.apply(rule("one", "reviews", "v1") + "---" + rule("two", REVIEWS, "v2"))
    (policy,) = world.model.policies.values()
    assert [s.name for s in policy.subsets] == ["v1", "v2"]
    world.apply(rule("three", "reviews", "v1"))
    (problem,) = world.graph.problems()
    assert problem.code is Code.DUPLICATE_SUBSET
    assert problem.about == ObjectKey("DestinationRule", "default", "three")
    world.drop("DestinationRule", "one")
    (policy,) = world.model.policies.values()
    assert [s.name for s in policy.subsets] == ["v2", "v1"]
    world.graph.verify()


class Plain:
    """A fetch that records nothing."""

    def by(self, view: object, index: object, value: object) -> object:
        return view.by(index, value)  # type: ignore[attr-defined]


def test_the_clients_namespace_beats_the_services_and_levels_never_merge(world: "World") -> None:
    world.apply(
        rule("service", REVIEWS, "v1") + "---" + rule("mesh", "*.local", "v9", "istio-system")
    )

    def chosen(client: str) -> list[str]:
        policies = world.model.policies
        found = policies_over(Plain(), policies, POLICY_BY_HOST, REVIEWS)  # type: ignore[arg-type]
        key = choose_policy(
            found,
            service_namespace="default",
            client_namespace=client,
            root_namespace="istio-system",
            client_labels={},
        )
        return [s.name for s in policies.get(key).subsets] if key else []

    assert chosen("shop") == ["v1"]
    world.apply(rule("client", "*.default.svc.cluster.local", "v5", "shop"))
    assert chosen("shop") == ["v5"]
    assert chosen("other") == ["v1"]
    world.drop("DestinationRule", "service")
    assert chosen("other") == ["v9"]


TABLE = """
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{headers: {End-User: {exact: jason}, x-trace: {}}}]
    route: [{destination: {host: reviews, subset: v2}, weight: 3}]
    timeout: 1.5s
    fault: {delay: {fixedDelay: 7s, percentage: {value: 100}}, abort: {httpStatus: 500}}
    retries: {attempts: 4, retryOn: "5xx,409"}
  - route:
    - {destination: {host: reviews, subset: v1}, weight: 90}
    - {destination: {host: reviews, subset: v3}, weight: 0}
    mirror: {host: ratings}
"""


def test_a_virtual_service_becomes_a_route_table(world: "World") -> None:
    world.apply(TABLE)
    table = world.model.tables.get(ObjectKey("VirtualService", "default", "reviews"))
    assert table.hosts == (REVIEWS,)
    assert table.gateways == ("mesh",)
    first, second = table.http
    assert [(h.name, h.matcher) for h in first.matches[0].headers] == [
        ("end-user", Exact("jason")),
        ("x-trace", Present()),
    ]
    assert first.timeout == datetime.timedelta(seconds=1.5)
    assert first.fault.delay.percent == 100
    assert first.fault.abort is None, "an abort without a percentage aborts nothing"
    assert first.retry.attempts == 4
    assert first.retry.statuses == (409,)
    assert "retriable-status-codes" in first.retry.on
    assert isinstance(second.action, Forward)
    assert [d.target.subset for d in second.action.destinations] == ["v1"]
    assert second.mirrors[0].percent == 100
    assert second.mirrors[0].target.host == "ratings.default.svc.cluster.local"


def test_a_bad_object_keeps_its_last_good_meaning(world: "World") -> None:
    world.apply(TABLE)
    world.apply(TABLE.replace("timeout: 1.5s", "timeout: soon"))
    table = world.model.tables.get(ObjectKey("VirtualService", "default", "reviews"))
    assert table.http[0].timeout == datetime.timedelta(seconds=1.5)
    (problem,) = world.graph.problems()
    assert problem.path == "spec.http[0].timeout"
