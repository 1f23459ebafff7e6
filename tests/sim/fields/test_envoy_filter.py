"""EnvoyFilters: what a patch of each kind and match does to requests, connections and names."""

import json
from pathlib import Path
from typing import Any

from meltemi.simulate.request import Request

from .caller import Caller
from .certificates import client
from .conftest import REAL
from .stage import Json, Stage, closed, heard

pytestmark = REAL
HCM = "envoy.filters.network.http_connection_manager"
TYPES = "type.googleapis.com/envoy.extensions.filters"
RATINGS = "ratings.default.svc.cluster.local"
REVIEWS = "reviews.default.svc.cluster.local"


def envoy_filter(*patches: Json, name: str = "f", **spec: Any) -> Json:
    body = {"configPatches": list(patches), **spec}
    meta = {"name": name, "namespace": spec.pop("namespace", "default")}
    body.pop("namespace", None)
    return {"objects": [{"kind": "EnvoyFilter", "metadata": meta, "spec": body}]}


def patch(kind: str, match: Json, operation: str, value: Json | None = None) -> Json:
    change: Json = {"operation": operation}
    return {
        "applyTo": kind,
        "match": match,
        "patch": change | ({"value": value} if value is not None else {}),
    }


def lua(word: str) -> Json:
    """A filter that leaves a word in a header of the request."""
    code = f'function envoy_on_request(handle) handle:headers():add("x-trail", "{word}") end'
    config = {"@type": f"{TYPES}.http.lua.v3.Lua", "default_source_code": {"inline_string": code}}
    return {"name": f"lua.{word}", "typed_config": config}


def at(sub: str = "", **listener: Any) -> Json:
    """The HTTP filters of outbound listeners; `sub`: one of them."""
    anchor: Json = {"name": HCM}
    if sub:
        anchor["subFilter"] = {"name": f"envoy.filters.http.{sub}"}
    found = {"filterChain": {"filter": anchor}, **listener}
    return {"context": "SIDECAR_OUTBOUND", "listener": found}


async def trail(stage: Stage, url: str = "ratings:9080/") -> list[str]:
    """The words that filters left on the way."""
    answer = await stage.get(url)
    headers = json.loads(answer.body)["headers"]
    return [part for name, value in headers if name == "x-trail" for part in value.split(",")]


_FAULT = {
    "objects": [
        {
            "kind": "VirtualService",
            "metadata": {"name": "ratings"},
            "spec": {
                "hosts": ["ratings"],
                "http": [
                    {
                        "route": [{"destination": {"host": "ratings"}}],
                        "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 100}}},
                    }
                ],
            },
        }
    ]
}


async def test_http_filters_stand_where_patches_put_them(stage: Stage) -> None:
    here = {"portNumber": 9080}
    await stage.use(
        _FAULT,
        envoy_filter(
            patch("HTTP_FILTER", at(**here), "INSERT_FIRST", lua("first")),
            patch("HTTP_FILTER", at("router", **here), "INSERT_BEFORE", lua("before")),
            patch("HTTP_FILTER", at("cors", **here), "INSERT_AFTER", lua("after")),
            patch("HTTP_FILTER", at(name="0.0.0.0_9080"), "ADD", lua("added")),
            patch("HTTP_FILTER", at("cors", **here), "REPLACE", lua("replaced")),
            patch("HTTP_FILTER", at("fault", **here), "REMOVE"),
        ),
    )
    assert await trail(stage) == ["first", "replaced", "after", "before", "added"]
    assert await trail(stage, "old:8000/") == [], "another port"


async def test_only_chosen_proxies_are_patched_in_the_order_of_priority(stage: Stage) -> None:
    def leaves(word: str, **more: Any) -> Json:
        match = at() | more.pop("match", {})
        first = patch("HTTP_FILTER", match, "INSERT_FIRST", lua(word))
        return envoy_filter(first, name=word, **more)

    version = {"proxy": {"proxyVersion": "^1\\.30.*"}}
    await stage.use(
        leaves("mine", workloadSelector={"labels": {"app": "client"}}, priority=1),
        leaves("theirs", workloadSelector={"labels": {"app": "other"}}),
        leaves("late", priority=5),
        leaves("early", priority=-5),
        leaves("root", namespace="istio-system", priority=2),
        leaves("elsewhere", namespace="other"),
        leaves("version", priority=3, match=version),
        leaves("old", match={"proxy": {"proxyVersion": "^1\\.29.*"}}),
        leaves("team", priority=4, match={"proxy": {"metadata": {"TEAM": "a"}}}),
        leaves("other-team", match={"proxy": {"metadata": {"TEAM": "b"}}}),
        leaves("inbound", match={"context": "SIDECAR_INBOUND"}),
        leaves("gateway", match={"context": "GATEWAY"}),
        leaves("any", priority=6, match={"context": "ANY"}),
        ISTIO_VERSION="1.30.0",
        TEAM="a",
    )
    # Each goes first, so the last one applied leads.
    assert await trail(stage) == ["any", "late", "team", "version", "root", "mine", "early"]


async def test_routes_and_hosts_are_patched_by_name(stage: Stage) -> None:
    def adds(word: str) -> Json:
        return {"response_headers_to_add": [{"header": {"key": f"x-{word}", "value": "1"}}]}

    def of(**configuration: Any) -> Json:
        return {"context": "SIDECAR_OUTBOUND", "routeConfiguration": configuration}

    teapot = {"name": "pot", "match": {"prefix": "/pot"}, "direct_response": {"status": 418}}
    named = {"name": f"{RATINGS}:9080"}
    await stage.use(
        envoy_filter(
            patch("ROUTE_CONFIGURATION", of(name="9080"), "MERGE", adds("by-name")),
            patch("ROUTE_CONFIGURATION", of(portNumber=9080), "MERGE", adds("by-port")),
            patch("ROUTE_CONFIGURATION", of(portNumber=8000), "MERGE", adds("other-port")),
            patch("VIRTUAL_HOST", of(vhost=named), "MERGE", adds("host")),
            patch("VIRTUAL_HOST", of(vhost={"domainName": RATINGS}), "MERGE", adds("domain")),
            patch("HTTP_ROUTE", of(vhost=named), "INSERT_FIRST", teapot),
            patch(
                "HTTP_ROUTE",
                of(vhost=named | {"route": {"action": "ROUTE", "name": "default"}}),
                "MERGE",
                adds("route"),
            ),
        )
    )
    answer = await stage.get("ratings:9080/")
    words = {name for name, _ in answer.headers if name.startswith("x-")}
    assert {"x-by-name", "x-by-port", "x-host", "x-domain", "x-route"} <= words
    assert "x-other-port" not in words
    assert (await stage.get("ratings:9080/pot")).status == 418
    other = await stage.get("reviews:9080/pot")
    words = {name for name, _ in other.headers}
    assert "x-by-name" in words
    assert not {"x-host", "x-domain", "x-route"} & words


async def test_clusters_are_patched_by_name_or_by_its_parts(stage: Stage) -> None:
    def named(word: str, **match: Any) -> Json:
        found = {"context": "SIDECAR_OUTBOUND", "cluster": match}
        return patch("CLUSTER", found, "MERGE", {"alt_stat_name": f"patched_{word}"})

    await stage.use(
        {"include": ["subsets"]},
        envoy_filter(
            named("service", service=RATINGS),
            named("name", name=f"outbound|9080||{REVIEWS}"),
            named("subset", subset="v2", service=REVIEWS),
            named("port", portNumber=8000),
            patch("CLUSTER", {"cluster": {"name": _GREETER}}, "REMOVE"),
            patch(
                "CLUSTER",
                {"context": "SIDECAR_OUTBOUND"},
                "ADD",
                {"name": "mine", "type": "STATIC", "alt_stat_name": "patched_added"},
            ),
        ),
        {
            "objects": [
                {
                    "kind": "VirtualService",
                    "metadata": {"name": "reviews"},
                    "spec": {
                        "hosts": ["reviews"],
                        "http": [
                            {
                                "match": [{"uri": {"prefix": "/v2"}}],
                                "route": [{"destination": {"host": "reviews", "subset": "v2"}}],
                            },
                            {"route": [{"destination": {"host": "reviews"}}]},
                        ],
                    },
                }
            ]
        },
    )
    for url in ("ratings:9080/", "reviews:9080/", "reviews:9080/v2", "old:8000/"):
        assert (await stage.get(url)).status == 200, url
    found = await stage.stats("cluster.patched_.*upstream_rq_total")
    names = [name.split("patched_")[1] for name, value in found.items() if value]
    used = {name.partition(".")[0].strip(";") for name in names}
    assert used == {"service", "name", "subset", "port"}
    assert "mine::" in await stage.lab.admin("/clusters")
    assert f"{_GREETER}::" not in await stage.lab.admin("/clusters")


_GREETER = "outbound|50051||greeter.default.svc.cluster.local"


def direct(word: str) -> Json:
    """A network filter that says a word and ends."""
    kind = f"{TYPES}.network.direct_response.v3.Config"
    config = {"@type": kind, "response": {"inline_string": word}}
    return {"name": "envoy.filters.network.direct_response", "typed_config": config}


async def test_listeners_and_their_filters_are_patched(stage: Stage) -> None:
    tcp = {"filterChain": {"filter": {"name": "envoy.filters.network.tcp_proxy"}}}
    out = "SIDECAR_OUTBOUND"
    added = {
        "name": "mine",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15888}},
        "filter_chains": [{"filters": [direct("added")]}],
    }
    extension = {"name": "mine", "typed_config": lua("discovered")["typed_config"]}
    discovered = {
        "name": "mine",
        "config_discovery": {
            "config_source": {"ads": {}, "resource_api_version": "V3"},
            "type_urls": [f"{TYPES}.http.lua.v3.Lua"],
        },
    }
    await stage.use(
        envoy_filter(
            patch(
                "NETWORK_FILTER",
                {"context": out, "listener": {"portNumber": 5432, **tcp}},
                "REPLACE",
                direct("patched"),
            ),
            patch("LISTENER", {"context": out}, "ADD", added),
            patch(
                "LISTENER_FILTER",
                {
                    "context": out,
                    "listener": {
                        "portNumber": 7000,
                        "listenerFilter": "envoy.filters.listener.http_inspector",
                    },
                },
                "REMOVE",
            ),
            patch("EXTENSION_CONFIG", {"context": out}, "ADD", extension),
            patch("HTTP_FILTER", at(portNumber=9080), "INSERT_FIRST", discovered),
        )
    )

    async def said(port: int, host: str = "") -> bytes:
        streams = await (stage.connect(host, port) if host else stage.arrive(port))
        streams[1].write(b"hello world\n")
        found = await heard(streams[0])
        await closed(streams[1])
        return found

    assert await said(5432, "db") == b"patched"
    assert await said(15888) == b"added"
    assert await trail(stage) == ["discovered"]
    await stage.get("odd:7000/")
    found = await stage.stats("7000.*downstream_rq_total|tcp.outbound_7000.*cx_total")
    assert not [name for name, value in found.items() if "downstream_rq_total" in name and value]


async def test_chains_are_told_by_their_matches(stage: Stage, tmp_path: Path) -> None:
    """Of the inbound side: which connections still find a chain."""
    server = "ratings-v1"
    caller = Caller(stage, tmp_path)

    async def answered(*patches: Json, port: int = 9080) -> list[bool]:
        """Plaintext from outside the mesh, and its mutual TLS."""
        await stage.use(envoy_filter(*patches) if patches else {}, server=server)
        plain = await stage.ask(port, Request("x"), address=stage.pod(server))
        return [plain.status == 200, await caller.status() == 200]

    def without(**chain: Any) -> Json:
        listener = {"name": "virtualInbound", "filterChain": chain}
        return patch("FILTER_CHAIN", {"context": "SIDECAR_INBOUND", "listener": listener}, "REMOVE")

    port = {"destinationPort": 9080}
    assert await answered() == [True, True]
    assert await answered(without(**port, transportProtocol="raw_buffer")) == [False, True]
    assert await answered(without(**port, transportProtocol="tls")) == [True, False]
    assert await answered(without(destinationPort=9081)) == [True, True]
    assert await answered(without(sni="nobody.example")) == [True, True]
    assert await answered(without(**port, sni="*.meltemi")) == [True, False]
    assert await answered(port=9999) == [True, True], "a port of no service"
    assert await answered(without(name="virtualInbound"), port=9999) == [False, True]
    assert await answered(without(applicationProtocols="no,one")) == [True, True]


_GATE = """
include: [gateway]
secrets: {shop.istio-system: [shop.example.com]}
pods:
  front.istio-system:
    gateway: true
    labels: {istio: ingressgateway, gateway.networking.k8s.io/gateway-name: edge}
objects:
- kind: Gateway
  metadata: {name: web}
  spec:
    selector: {istio: ingressgateway}
    servers:
    - port: {number: 443, name: shop, protocol: HTTPS}
      hosts: [shop.example.com]
      tls: {mode: SIMPLE, credentialName: shop}
    - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
- kind: VirtualService
  metadata: {name: web}
  spec: {hosts: ["*"], gateways: [web], http: [{directResponse: {status: 201}}]}
"""


async def test_gateways_are_patched_by_target_and_server(stage: Stage) -> None:
    def adds(word: str, **configuration: Any) -> Json:
        header = {"header": {"key": f"x-{word}", "value": "1"}}
        match = {"context": "GATEWAY", "routeConfiguration": configuration}
        return patch("ROUTE_CONFIGURATION", match, "MERGE", {"response_headers_to_add": [header]})

    def target(name: str) -> list[Json]:
        group = "gateway.networking.k8s.io"
        return [{"group": group, "kind": "Gateway", "name": name}]

    space = "istio-system"
    await stage.use(
        _GATE,
        envoy_filter(adds("edge"), name="a", namespace=space, targetRefs=target("edge")),
        envoy_filter(adds("not-edge"), name="b", namespace=space, targetRefs=target("other")),
        envoy_filter(
            adds("port-name", portName="shop"),
            adds("gateway", gateway="default/web"),
            adds("other-gateway", gateway="default/other"),
            name="c",
            namespace=space,
        ),
        proxy="front.istio-system",
    )
    name = "shop.example.com"
    secure = await stage.ask(8443, Request(name, scheme="https"), tls=client(), sni=name)
    words = {header for header, _ in secure.headers if header.startswith("x-")}
    assert words == {"x-edge", "x-port-name", "x-gateway"}
    plain = await stage.ask(8080, Request(name))
    words = {header for header, _ in plain.headers if header.startswith("x-")}
    assert words == {"x-edge"}
