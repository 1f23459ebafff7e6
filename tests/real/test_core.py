"""Changes made of many objects, and the mesh's own settings, on real traffic."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.real.conftest import Mesh
from tests.real.load import Load, until

URL = "/api/v1/products/0/reviews"

SUBSET = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: %s, labels: {version: v1}}]}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: %s}}]}]}
"""


async def test_subsets_and_routes_come_and_go_in_any_order_without_an_error(mesh: Mesh) -> None:
    def apply(text: str) -> None:
        mesh.kubectl("apply", "-f", "-", text=text)

    def delete(kind: str) -> None:
        mesh.kubectl("delete", kind, "reviews", "--ignore-not-found")

    async with Load(mesh.ingress + URL, at_once=8, most=60_000) as load:
        await load.reach(100)
        for turn in range(6):
            name = f"turn{turn}"
            steps = [(apply, SUBSET % name), (apply, ROUTE % name)]
            if turn % 2:
                steps.reverse()
            for step, text in steps:
                await asyncio.to_thread(step, text)
            await asyncio.to_thread(mesh.meltemi, "wait", "--for=distribution", "vs/reviews")
            await load.reach(100)
            kinds = ["virtualservice", "destinationrule"]
            if turn % 3 == 1:
                kinds.reverse()
            for kind in kinds:
                await asyncio.to_thread(delete, kind)
            await load.reach(100)
    mesh.apply("bookinfo/networking/destination-rule-all.yaml", "destinationrule/reviews")
    print(f"{load.answers.total()} requests over 6 turns")
    assert load.failures == {}


LUA = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: %(name)s}
spec:
  workloadSelector: {labels: {app: details}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          filter:
            name: envoy.filters.network.http_connection_manager
            subFilter: {name: envoy.filters.http.router}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.lua
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code:
            inline_string: |
              %(code)s
"""
RATE_LIMIT = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limit}
spec:
  workloadSelector: {labels: {app: ratings}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/$LIMIT
          stat_prefix: limit
          token_bucket: {max_tokens: 3, tokens_per_fill: 3, fill_interval: 3600s}
          filter_enabled: {default_value: {numerator: 100, denominator: HUNDRED}}
          filter_enforced: {default_value: {numerator: 100, denominator: HUNDRED}}
""".replace("$LIMIT", "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit")


def details(mesh: Mesh) -> str:
    """Headers of a request from productpage to details."""
    program = ("exec", "deploy/productpage-v1", "-c", "productpage", "--")
    return mesh.kubectl(*program, "curl", "-s", "-i", "http://details:9080/details/0")


async def test_patches_are_felt_and_refused_ones_are_told(mesh: Mesh) -> None:
    code = 'function envoy_on_response(h) h:headers():add("x-lua", "yes") end'
    mesh.apply(LUA % {"name": "lua", "code": code}, "envoyfilter/lua")
    await until(lambda: "x-lua: yes" in details(mesh))
    mesh.kubectl("delete", "envoyfilter", "lua")
    mesh.apply(LUA % {"name": "bad", "code": "function ("}, "envoyfilter/bad")
    assert "200 OK" in details(mesh)

    def told() -> list[str]:
        found = json.loads(mesh.run("curl", "-s", f"{mesh.console}/api/problems"))
        return [p["code"] for p in found if p["name"] == "bad"]

    await until(lambda: told() == ["MSH0301"])
    mesh.kubectl("delete", "envoyfilter", "bad")
    mesh.apply(RATE_LIMIT, "envoyfilter/limit")
    url = "http://ratings:9080/ratings/0"
    program = ("exec", "deploy/productpage-v1", "-c", "productpage", "--", "curl", "-s", "-w")

    def codes() -> list[str]:
        return [mesh.kubectl(*program, "%{http_code}", "-o", "/dev/null", url) for _ in range(5)]

    await until(lambda: codes().count("429") >= 2)
    mesh.kubectl("delete", "envoyfilter", "limit")


async def test_mesh_config_is_felt_at_once(mesh: Mesh) -> None:
    program = ("exec", "deploy/productpage-v1", "-c", "productpage", "--", "curl", "-s", "-w")
    ask = (*program, "%{http_code}", "-o", "/dev/null", "http://nowhere.example:9080/")
    config = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"""
    mesh.apply(config, "configmap/istio.istio-system")
    ask = (*program, "%{http_code}", "-o", "/dev/null", "-H", "Host: nowhere.example")
    assert mesh.kubectl(*ask, "http://details:9080/") == "502"
    said = ("logs", "deploy/productpage-v1", "-c", "istio-proxy", "--tail=200")
    await until(lambda: '"GET / HTTP/1.1" 502' in mesh.kubectl(*said))
    mesh.kubectl("delete", "configmap", "-n", "istio-system", "istio")


SETTINGS = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    enablePrometheusMerge: false
    defaultConfig:
      concurrency: 3
      proxyMetadata: {FROM: mesh, TEAM: nobody}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: everyone}
spec: {environmentVariables: {TEAM: red, SHIFT: night}}
---
apiVersion: networking.istio.io/v1beta1
kind: ProxyConfig
metadata: {name: chosen}
spec:
  selector: {matchLabels: {app: tuned}}
  concurrency: 2
  environmentVariables: {TEAM: blue}
  image: {imageType: distroless}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: tuned}
spec:
  workloadSelector: {labels: {app: tuned}}
  configPatches:
  - {applyTo: BOOTSTRAP, patch: {operation: MERGE, value: {stats_flush_interval: 12s}}}
"""
PODS = """
apiVersion: v1
kind: Pod
metadata:
  name: %(name)s
  labels: {app: %(name)s}
  annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
spec:
  containers:
  - {name: main, image: meltemi/sleep, ports: [{containerPort: 8080}]}
---
"""


async def test_proxies_are_made_as_their_settings_say(mesh: Mesh) -> None:
    def make(*names: str) -> None:
        mesh.kubectl("apply", "-f", "-", text="".join(PODS % {"name": name} for name in names))
        for name in names:
            mesh.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")

    def proxy(name: str) -> dict[str, Any]:
        pod = json.loads(mesh.kubectl("get", "pod", name, "-o", "json"))
        found: list[Any] = [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]
        made: dict[str, Any] = next(c for c in found if c["name"] == "istio-proxy")
        return made | {"port": pod["metadata"]["annotations"]["prometheus.io/port"]}

    def env(name: str) -> dict[str, str]:
        return {e["name"]: e.get("value", "") for e in proxy(name)["env"]}

    def admin(name: str, path: str) -> Any:
        url = f"http://127.0.0.1:15000{path}"
        code = f"import urllib.request as u; print(u.urlopen({url!r}).read().decode())"
        return json.loads(mesh.kubectl("exec", name, "-c", "main", "--", "python3", "-c", code))

    make("before")
    assert proxy("before")["port"] == "15020", "metrics are merged"
    mesh.apply(SETTINGS, "configmap/istio.istio-system", "envoyfilter/tuned")
    make("tuned", "plain")
    assert proxy("plain")["port"] == "8080", "each for itself"
    wanted = {"FROM": "mesh", "TEAM": "blue", "SHIFT": "night"}
    assert wanted.items() <= env("tuned").items()
    assert env("plain")["TEAM"] == "red"
    assert "TEAM" not in env("before")
    assert proxy("tuned")["image"].endswith("-distroless")
    threads = {
        name: admin(name, "/server_info")["command_line_options"]["concurrency"]
        for name in ("before", "plain", "tuned")
    }
    assert threads == {"before": 1, "plain": 3, "tuned": 2}
    dumped = admin("tuned", "/config_dump")["configs"]
    (bootstrap,) = [c["bootstrap"] for c in dumped if c["@type"].endswith("BootstrapConfigDump")]
    assert bootstrap["stats_flush_interval"] == "12s"
    mesh.kubectl("delete", "pod", "before", "tuned", "plain", "--grace-period=1")
    mesh.kubectl("delete", "proxyconfig,envoyfilter", "--all")
    mesh.kubectl("delete", "configmap", "-n", "istio-system", "istio")


ON_DEMAND = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata:
      labels: {app: client}
      annotations: {meltemi.dev/scope: on-demand}
    spec:
      containers: [{name: curl, image: curlimages/curl, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: httpbin}
spec: {selector: {app: httpbin}, ports: [{name: http, port: 8000, targetPort: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: httpbin}
spec:
  selector: {matchLabels: {app: httpbin}}
  template:
    metadata: {labels: {app: httpbin}}
    spec: {containers: [{name: httpbin, image: kennethreitz/httpbin}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


async def test_a_sidecar_learns_what_it_uses_at_the_first_request(mesh: Mesh) -> None:
    mesh.apply(ON_DEMAND, "peerauthentication/default")
    mesh.apply(ROUTE % "v3", "virtualservice/reviews")
    for name in ("client", "httpbin"):
        mesh.kubectl("rollout", "status", f"deploy/{name}", "--timeout=60s")

    def pod() -> str:
        return str(mesh.pod("app=client")["metadata"]["name"])

    def clusters() -> set[str]:
        listed = json.loads(mesh.meltemi("proxy-config", "cluster", pod(), "-o", "json"))
        return {name for name in re.findall(r"outbound\|[^\"]+", json.dumps(listed))}

    def ask(*argv: str) -> str:
        return mesh.kubectl("exec", pod(), "-c", "curl", "--", "curl", "-s", "-m", "10", *argv)

    assert not any("reviews" in name for name in clusters())
    assert "reviews-v3" in ask("http://reviews:9080/reviews/0")
    assert "reviews-v3" in ask("http://reviews.default:9080/reviews/0")
    assert "reviews-v3" in ask("http://reviews:9080/reviews/0")
    posted = ask("-d", "x" * 5000, "http://httpbin.default:8000/post")
    assert "x" * 5000 in posted
    known = clusters()
    assert any(name.endswith("|v3|reviews.default.svc.cluster.local") for name in known)
    assert not any("details" in name for name in known)
    await until(lambda: "reviews" in mesh.kubectl("get", "cm", "-n", "istio-system", "-o", "json"))
    mesh.kubectl("delete", "pod", pod(), "--grace-period=1")
    mesh.kubectl("rollout", "status", "deploy/client", "--timeout=60s")
    assert any("reviews" in name for name in clusters()), "it starts warm"
    mesh.kubectl("delete", "deploy,svc", "httpbin", "--ignore-not-found", "--wait=false")
    mesh.kubectl("delete", "deploy", "client", "--wait=false")


async def test_sidecars_are_suggested_from_traffic(mesh: Mesh) -> None:
    async with Load(mesh.ingress + URL) as load:
        await load.reach(50)
        await until(lambda: "productpage-v1" in mesh.result(*_suggest(mesh)).stdout)
    found = {s["metadata"]["name"]: s for s in yaml.safe_load_all(mesh.run(*_suggest(mesh)))}
    spec = found["productpage-v1"]["spec"]
    assert spec["workloadSelector"] == {"labels": {"app": "productpage", "version": "v1"}}
    assert "default/reviews.default.svc.cluster.local" in spec["egress"][0]["hosts"]
    mesh.kubectl("apply", "-f", "-", text=mesh.run(*_suggest(mesh)))
    mesh.meltemi("wait", "--for=distribution", "sidecar/productpage-v1")
    async with Load(mesh.ingress + URL) as load:
        await load.reach(50)
    mesh.kubectl("delete", "sidecar", "--all")
    assert load.failures == {}


def _suggest(mesh: Mesh) -> tuple[str, ...]:
    program = str(Path(sys.executable).parent / "meltemi")
    return (program, "scope", "suggest", "default", "--data", str(mesh.data))


async def test_scope_changes_under_load_without_an_error(mesh: Mesh) -> None:
    def annotate(value: str) -> None:
        mesh.kubectl("annotate", "--overwrite", "ns", "default", f"meltemi.dev/scope{value}")

    async with Load(mesh.ingress + URL, most=60_000) as load:
        await load.reach(100)
        for value in ("=on-demand", "=full", "=on-demand", "=full", "=on-demand", "-"):
            await asyncio.to_thread(annotate, value)
            await load.reach(200)
    assert load.failures == {}
