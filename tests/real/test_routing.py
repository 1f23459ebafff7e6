"""Routing rules on real traffic: Bookinfo's classic tasks."""

import json
import math
import time
from collections import Counter

from tests.real.conftest import SAMPLES, Mesh
from tests.real.load import answers

REVIEWS = "/api/v1/products/0/reviews"
RULES = "bookinfo/networking/"
SAMPLES_90_10 = SAMPLES / RULES / "virtual-service-reviews-90-10.yaml"


def versions(found: list[dict[str, str]]) -> Counter[str]:
    """How often each version of reviews answered."""
    return Counter("-".join(body["podname"].split("-")[:2]) for body in found)


def curl(mesh: Mesh, *argv: str, app: str = "productpage-v1") -> str:
    return mesh.kubectl("exec", f"deploy/{app}", "-c", app.rpartition("-")[0], "--", "curl", *argv)


async def test_the_page_is_served_through_gateway_and_sidecars(mesh: Mesh) -> None:
    page = mesh.run("curl", "-s", f"{mesh.ingress}/productpage")
    assert "The Comedy of Errors" in page
    assert "Reviews served by" in page


async def test_without_rules_all_versions_answer(mesh: Mesh) -> None:
    found = versions(await answers(mesh.ingress + REVIEWS, 60))
    assert set(found) == {"reviews-v1", "reviews-v2", "reviews-v3"}


async def test_weights_split_as_they_say(mesh: Mesh) -> None:
    lag = mesh.apply(f"{RULES}virtual-service-reviews-90-10.yaml", "virtualservice/reviews")
    count, share = 2000, 0.1
    found = versions(await answers(mesh.ingress + REVIEWS, count))
    deviation = math.sqrt(count * share * (1 - share))
    print(f"{found}, acknowledged {lag:.2f} s after kubectl returned")
    assert abs(found["reviews-v2"] - count * share) <= 3 * deviation
    assert found["reviews-v1"] + found["reviews-v2"] == count


async def test_a_header_chooses_the_version(mesh: Mesh) -> None:
    mesh.apply(f"{RULES}virtual-service-reviews-test-v2.yaml", "virtualservice/reviews")
    jason = versions(await answers(mesh.ingress + REVIEWS, 40, headers={"end-user": "jason"}))
    others = versions(await answers(mesh.ingress + REVIEWS, 40))
    assert set(jason) == {"reviews-v2"}
    assert set(others) == {"reviews-v1"}


async def test_a_delay_is_felt(mesh: Mesh) -> None:
    mesh.apply(f"{RULES}virtual-service-ratings-test-delay.yaml", "virtualservice/ratings")
    began = time.monotonic()
    slow = curl(mesh, "-s", "-H", "end-user: jason", "http://ratings:9080/ratings/0")
    assert time.monotonic() - began >= 7.0
    assert json.loads(slow)["ratings"] == {"Reviewer1": 5, "Reviewer2": 4}
    began = time.monotonic()
    curl(mesh, "-s", "http://ratings:9080/ratings/0")
    assert time.monotonic() - began < 5.0


async def test_an_abort_is_felt(mesh: Mesh) -> None:
    mesh.apply(f"{RULES}virtual-service-ratings-test-abort.yaml", "virtualservice/ratings")
    code = ("-s", "-o", "/dev/null", "-w", "%{http_code}")
    url = "http://ratings:9080/ratings/0"
    assert curl(mesh, *code, "-H", "end-user: jason", url) == "500"
    assert curl(mesh, *code, url) == "200"


async def test_a_mirror_gets_a_copy_of_every_request(mesh: Mesh) -> None:
    mesh.kubectl("scale", "deploy/traffic-generator", "--replicas=0")
    mesh.kubectl("wait", "--for=delete", "pod", "-l", "app=traffic-generator", "--timeout=60s")
    mesh.apply(f"{RULES}virtual-service-reviews-mirror.yaml", "virtualservice/reviews")

    def copies() -> int:
        said = mesh.kubectl("logs", "deploy/reviews-v3", "-c", "reviews")
        return said.count("GET /reviews/0")

    before = copies()
    found = versions(await answers(mesh.ingress + REVIEWS, 50))
    assert set(found) == {"reviews-v1"}
    deadline = time.monotonic() + 10
    while copies() < before + 50 and time.monotonic() < deadline:
        pass
    assert copies() == before + 50
    mesh.kubectl("scale", "deploy/traffic-generator", "--replicas=1")


async def test_a_change_reaches_every_proxy_in_well_under_a_second(mesh: Mesh) -> None:
    lags = []
    for weight in (10, 20, 30):
        rule = {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "VirtualService",
            "metadata": {"name": "reviews"},
            "spec": {
                "hosts": ["reviews"],
                "http": [
                    {
                        "route": [
                            {
                                "destination": {"host": "reviews", "subset": "v1"},
                                "weight": 100 - weight,
                            },
                            {
                                "destination": {"host": "reviews", "subset": "v2"},
                                "weight": weight,
                            },
                        ]
                    }
                ],
            },
        }
        lags.append(mesh.apply(json.dumps(rule), "virtualservice/reviews"))
    print(f"kubectl returned to all acknowledged, with the CLI's start: {lags}")
    assert min(lags) < 2.0
    assert all(proxy["rds"] == "SYNCED" for proxy in mesh.proxies())


async def test_bad_rules_are_refused_with_the_field_named(mesh: Mesh) -> None:
    bad = (SAMPLES_90_10.read_text()).replace("weight: 90", "weight: ninety")
    refused = mesh.result("kubectl", "apply", "-f", "-", text=bad)
    assert refused.returncode != 0
    assert "spec.http[0].route[0].weight" in refused.stderr
    negative = (SAMPLES_90_10.read_text()).replace("weight: 90", "weight: -90")
    refused = mesh.result("kubectl", "apply", "-f", "-", text=negative)
    assert refused.returncode != 0
    assert "weight" in refused.stderr


async def test_a_missing_subset_is_reported_and_harms_nothing_else(mesh: Mesh) -> None:
    mesh.apply(
        """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http:
  - match: [{uri: {prefix: /nowhere}}]
    route: [{destination: {host: details, subset: v9}}]
  - route: [{destination: {host: details, subset: v1}}]
""",
        "virtualservice/details",
    )
    problems = json.loads(mesh.run("curl", "-s", f"{mesh.console}/api/problems"))
    mine = [p for p in problems if p["name"] == "details"]
    assert any("v9" in p["message"] and p["path"].startswith("spec.http[0]") for p in mine)
    found = await answers(f"{mesh.ingress}/api/v1/products/0", 20)
    assert all(body["author"] == "William Shakespeare" for body in found)


async def test_the_graph_shows_the_traffic_with_mutual_tls(mesh: Mesh) -> None:
    await answers(mesh.ingress + REVIEWS, 40)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        url = f"{mesh.console}/api/graph?duration=60"
        graph = json.loads(mesh.run("curl", "-s", url))
        edges = {(e["source"], e["target"]): e for e in graph["edges"]}
        entry = edges.get(("service/default/reviews", "app/default/reviews/v1"))
        if entry is not None and entry["mtlsShare"] == 1.0:
            break
    assert entry is not None
    assert entry["rate"] > 0
    assert entry["mtlsShare"] == 1.0
    assert entry["sourcePrincipal"].endswith("/ns/default/sa/bookinfo-productpage")
    assert {b["id"] for b in graph["boxes"]} >= {"box/default/reviews", "namespace/default"}
    assert "reviews v1.default" in mesh.meltemi("graph")
