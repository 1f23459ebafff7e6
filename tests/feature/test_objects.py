"""An object is written; a proxy is sent bytes; a problem is told."""

import asyncio
from typing import Any

import pytest
from tests.feature.conftest import App, Proxy

from meltemi.app.analysis_status import AnalysisStatus
from meltemi.app.ingress_status import IngressStatus
from meltemi.base.clock import SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE
from meltemi.kube.errors import ApiError

REVIEWS = "reviews.default.svc.cluster.local"
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  clusterIP: 10.43.0.200
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: 9080}]
"""
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front}
spec:
  hosts: ["*"]
  gateways: [front]
  http:
  - route: [{destination: {host: reviews}}]
"""


def pod(version: str, ip: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata:
  name: reviews-{version}
  labels: {{app: reviews, version: {version}, security.istio.io/tlsMode: istio}}
spec:
  containers: [{{name: app, image: echo}}]
status:
  phase: Running
  podIP: {ip}
  conditions: [{{type: Ready, status: "True"}}]
---"""


def endpoints(**ready: bool) -> str:
    """The slice of reviews, by version."""
    lines = [
        f"- addresses: [10.44.0.{version[1:]}]\n"
        f"  conditions: {{ready: {str(is_ready).lower()}}}\n"
        f"  targetRef: {{kind: Pod, name: reviews-{version}, namespace: default}}"
        for version, is_ready in ready.items()
    ]
    return """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-1, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080, protocol: TCP}]
endpoints:
""" + "\n".join(lines)


def split(weight: int, subset: str = "v2") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
  - route:
    - {{destination: {{host: reviews, subset: v1}}, weight: {weight}}}
    - {{destination: {{host: reviews, subset: {subset}}}, weight: {100 - weight}}}
"""


@pytest.fixture
async def shop(app: App) -> App:
    await app.apply(SERVICE)
    await app.apply(pod("v1", "10.44.0.1") + pod("v2", "10.44.0.2").removesuffix("---"))
    await app.apply(endpoints(v1=True, v2=True))
    return app


@pytest.fixture
async def client(shop: App) -> Proxy:
    return await shop.connect("client", "10.44.0.9", app="client")


def name(subset: str = "") -> str:
    return f"outbound|9080|{subset}|{REVIEWS}"


def weights(proxy: Proxy) -> dict[str, int]:
    [route] = proxy.routes("9080", REVIEWS)
    clusters = route["route"]["weighted_clusters"]["clusters"]
    return {c["name"].split("|")[2]: c["weight"] for c in clusters}


async def test_a_service_becomes_a_cluster_its_endpoints_and_a_route(client: Proxy) -> None:
    assert client.clusters[name()]["type"] == "EDS"
    assert client.addresses(name()) == {"10.44.0.1", "10.44.0.2"}
    [route] = client.routes("9080", REVIEWS)
    assert route["route"]["cluster"] == name()
    assert "0.0.0.0_9080" in client.listeners


async def test_weights_reach_the_proxy_change_and_go(shop: App, client: Proxy) -> None:
    await shop.apply(SUBSETS)
    await shop.apply(split(90))
    assert weights(client) == {"v1": 90, "v2": 10}
    assert client.addresses(name("v1")) == {"10.44.0.1"}
    await shop.apply(split(20))
    assert weights(client) == {"v1": 20, "v2": 80}
    await shop.delete("VirtualService", "reviews")
    [route] = client.routes("9080", REVIEWS)
    assert route["route"]["cluster"] == name()


async def test_an_endpoint_that_goes_touches_endpoints_alone(shop: App, client: Proxy) -> None:
    client.taken.clear()
    await shop.apply(endpoints(v1=True, v2=False))
    assert client.addresses(name()) == {"10.44.0.1"}
    assert {url for url, _ in client.taken} == {ENDPOINT}


async def test_a_rule_touches_no_listener(shop: App, client: Proxy) -> None:
    await shop.apply(SUBSETS)
    client.taken.clear()
    await shop.apply(split(50))
    assert {url for url, _ in client.taken} == {ROUTE}


async def test_clusters_come_before_the_routes_that_name_them(shop: App, client: Proxy) -> None:
    client.taken.clear()
    await shop.apply(SUBSETS)
    await shop.apply(split(50))
    order = [url for url, _ in client.taken]
    assert order.index(CLUSTER) < order.index(ENDPOINT) < order.index(ROUTE)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (split(90).replace("weight: 90", "weight: many"), "weight"),
        (split(90).replace("weight: 90", "weight: -90"), "weight"),
        (split(90).replace("  - route:", "  - timeout: soon\n    route:"), "timeout"),
    ],
)
async def test_a_wrong_object_is_refused_with_its_field(
    shop: App, client: Proxy, text: str, field: str
) -> None:
    client.taken.clear()
    with pytest.raises(ApiError) as refused:
        await shop.apply(text)
    assert field in str(refused.value)
    assert client.taken == []


async def test_a_missing_subset_is_a_problem_and_harms_nothing_else(
    shop: App, client: Proxy
) -> None:
    await shop.apply(SUBSETS)
    await shop.apply(split(50, subset="v9"))
    problems = shop.problems("reviews")
    assert any("v9" in message and "subset" in path for path, message in problems), problems
    assert client.addresses(name("v1")) == {"10.44.0.1"}
    await shop.apply(split(50))
    assert shop.problems("reviews") == []


def _port(chain: Any) -> int:
    return int(chain.get("filter_chain_match", {}).get("destination_port", 0))


async def test_strict_takes_the_plaintext_chains_away(shop: App) -> None:
    server = await shop.connect("reviews-v1", "10.44.0.1", app="reviews", version="v1")

    def plain() -> list[str]:
        chains = server.listeners["virtualInbound"]["filter_chains"]
        return [c["name"] for c in chains if "transport_socket" not in c and _port(c) == 9080]

    assert plain()
    await shop.apply(STRICT)
    assert not plain()
    await shop.delete("PeerAuthentication", "default")
    assert plain()


async def test_a_gateway_listens_and_routes(shop: App) -> None:
    gateway = await shop.connect(
        "front", "10.44.0.20", kind="router", namespace="istio-system", istio="ingressgateway"
    )
    before = set(gateway.listeners)
    await shop.apply(GATEWAY)
    assert set(gateway.listeners) > before
    [route] = gateway.routes("http.8080", "")
    assert route["route"]["cluster"] == name()
    await shop.delete("Gateway", "front")
    assert set(gateway.listeners) == before


async def test_a_proxy_that_connects_later_sees_the_same(shop: App, client: Proxy) -> None:
    await shop.apply(SUBSETS)
    await shop.apply(split(70))
    late = await shop.connect("late", "10.44.0.10", app="late")
    assert late.clusters == client.clusters
    assert late.routes("9080", REVIEWS) == client.routes("9080", REVIEWS)
    outbound = {n for n in client.listeners if n != "virtualInbound"}
    assert {n: late.listeners[n] for n in outbound} == {n: client.listeners[n] for n in outbound}
    assert LISTENER in {url for url, _ in late.taken}


async def test_an_object_says_itself_what_is_wrong_with_it(shop: App, client: Proxy) -> None:
    writer = AnalysisStatus(shop.engine, shop.client, SystemClock())
    key = ObjectKey("VirtualService", "default", "reviews")

    async def told() -> Any:
        assert await writer.write()
        return (await shop.client.get(key)).get("status")

    await shop.apply(SUBSETS)
    await shop.apply(split(50))
    assert not await told()
    await shop.apply(split(50, subset="v9"))
    status = await told()
    [condition] = status["conditions"]
    assert (condition["type"], condition["status"]) == ("PassedAnalysis", "False")
    assert condition["reason"] == "UnknownSubset"
    assert condition["message"].startswith("spec.http[0].route[1].destination.subset: ")
    assert status["validationMessages"] == [
        {"type": {"name": "UnknownSubset", "code": "MSH0202"}, "level": "ERROR"}
    ]
    assert status["observedGeneration"] == 2
    await shop.apply(split(60))
    status = await told()
    assert [c["status"] for c in status["conditions"]] == ["True"]
    assert "validationMessages" not in status
    await shop.apply(split(60))
    assert list(writer.outdated()) == []


INGRESS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: istio
  defaultBackend: {service: {name: reviews, port: {number: 9080}}}
"""
FRONT = """
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: istio-system}
spec: {ports: [{name: http, port: 80}], externalIPs: [%s]}
"""
CHOICE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "ingressService: other"}
"""


async def test_an_ingress_shows_the_addresses_of_the_meshs_service(shop: App) -> None:
    key = ObjectKey("Ingress", "default", "shop")

    async def shown() -> list[str]:
        status = (await shop.client.get(key)).get("status", {})
        return [e["ip"] for e in status.get("loadBalancer", {}).get("ingress") or ()]

    async def shows(address: str) -> None:
        async with asyncio.timeout(10):
            while await shown() != [address]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    writing = asyncio.create_task(IngressStatus(shop.engine, shop.client).run(), name="status")
    try:
        await shop.apply("{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}")
        await shop.apply(FRONT % ("istio-ingressgateway", "192.0.2.1"))
        await shop.apply(FRONT % ("other", "192.0.2.2"))
        await shop.apply(INGRESS)
        await shows("192.0.2.1")
        await shop.apply(CHOICE)
        await shows("192.0.2.2")
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    stored = await shop.client.get(key)
    await shop.engine.caught_up(key, int(stored["metadata"]["resourceVersion"]))
