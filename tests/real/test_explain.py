"""`meltemi explain` on a live mesh says what curl then gets."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.real.conftest import DANGLING, SAMPLES, Mesh, meltemi_command
from tests.real.test_routing import RULES, curl

FAILS, DIFFERS, BAD = 4, 3, 2
REVIEWS = "http://reviews:9080/reviews/0"


def explain(mesh: Mesh, *argv: str) -> tuple[int, Any]:
    """The exit code and, when there is one, the JSON answer."""
    program = str(Path(sys.executable).parent / "meltemi")
    done = mesh.result(program, "explain", *argv, "-o", "json", "--data", str(mesh.data))
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def from_page(mesh: Mesh, url: str, *argv: str) -> tuple[int, Any]:
    return explain(mesh, "--from", "deploy/productpage-v1", url, *argv)


def shares(trace: Any) -> dict[str, float]:
    """Percent of requests by workload."""
    found: dict[str, float] = {}
    for branch in trace["branches"]:
        for place in branch["places"]:
            share = 100 * branch["share"] * place["share"]
            found[place["workload"]] = found.get(place["workload"], 0) + share
    return {name: round(share) for name, share in found.items()}


async def test_the_way_is_the_one_curl_takes(mesh: Mesh) -> None:
    mesh.apply(f"{RULES}virtual-service-reviews-test-v2.yaml", "virtualservice/reviews")
    for headers, version in (((), "reviews-v1"), (("-H", "end-user: jason"), "reviews-v2")):
        code, answer = from_page(mesh, REVIEWS, *headers)
        assert code == 0
        assert shares(answer["trace"]) == {version: 100}
        said = json.loads(curl(mesh, "-s", *headers, REVIEWS))
        assert said["podname"].startswith(version)
    (because,) = answer["trace"]["route"]["choice"]["because"]
    assert (because["kind"], because["name"]) == ("VirtualService", "reviews")
    assert because["path"] == "spec.http[0].match[0]"
    place = answer["trace"]["branches"][0]["places"][0]
    assert place["security"] == "mutual"
    assert place["arrival"]["port"] == 9080


async def test_a_fault_is_foretold_with_an_exit_code(mesh: Mesh) -> None:
    mesh.apply(f"{RULES}virtual-service-ratings-test-abort.yaml", "virtualservice/ratings")
    url = "http://ratings:9080/ratings/0"
    jason = ("-H", "end-user: jason")
    code, answer = from_page(mesh, url, *jason)
    assert code == FAILS
    assert answer["trace"]["faults"][0]["response"]["status"] == 500
    status = ("-s", "-o", "/dev/null", "-w", "%{http_code}")
    assert curl(mesh, *status, *jason, url) == "500"
    assert from_page(mesh, url)[0] == 0
    assert curl(mesh, *status, url) == "200"


async def test_a_change_is_foretold_and_not_made(mesh: Mesh) -> None:
    change = str(SAMPLES / RULES / "virtual-service-reviews-80-20.yaml")
    code, answer = from_page(mesh, REVIEWS, "-f", change, "--diff")
    assert code == DIFFERS
    assert shares(answer["trace"]) == {"reviews-v1": 80, "reviews-v2": 20}
    assert set(shares(answer["before"])) == {"reviews-v1", "reviews-v2", "reviews-v3"}
    because = answer["trace"]["route"]["choice"]["because"][0]
    assert because["file"] == change
    assert because["line"] > 1
    assert mesh.kubectl("get", "virtualservice", "-o", "name").split() == [
        "virtualservice.networking.istio.io/bookinfo"
    ]
    code, answer = from_page(mesh, REVIEWS, "-f", change)
    mesh.apply(f"{RULES}virtual-service-reviews-80-20.yaml", "virtualservice/reviews")
    assert shares(from_page(mesh, REVIEWS)[1]["trace"]) == shares(answer["trace"])


async def test_a_stranger_at_the_gateway(mesh: Mesh) -> None:
    asked = ("--from", "gateway")
    code, answer = explain(mesh, *asked, "http://shop.example.com/productpage")
    assert code == 0
    assert shares(answer["trace"]) == {"productpage-v1": 100}
    code, answer = explain(mesh, *asked, "http://shop.example.com/secret")
    assert code == FAILS
    assert answer["trace"]["response"]["status"] == 404
    got = mesh.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{mesh.ingress}/secret")
    assert got == "404"


async def test_strict_mutual_tls_names_the_policy(mesh: Mesh) -> None:
    mesh.apply("bookinfo/policy/mtls-strict.yaml")
    _, answer = from_page(mesh, "http://details:9080/details/0")
    security = answer["trace"]["branches"][0]["places"][0]["arrival"]["security"]
    assert security["value"].startswith("STRICT")
    assert security["because"][0]["kind"] == "PeerAuthentication"


async def test_a_bad_question_is_told_what_is_there(mesh: Mesh) -> None:
    code, said = explain(mesh, "--from", "nobody", REVIEWS)
    assert code == BAD
    assert "no pod nobody" in said
    assert "productpage-v1" in said


async def test_a_problem_is_told_by_the_object_and_by_analyze(mesh: Mesh) -> None:
    applied = mesh.result("kubectl", "apply", "-f", "-", text=DANGLING.replace("5s", "5"))
    assert 'The VirtualService "dangling" is invalid' in applied.stderr
    assert "spec.http[0].timeout: expected a duration" in applied.stderr
    mesh.kubectl("apply", "-f", "-", text=DANGLING)
    condition = "--for=condition=PassedAnalysis=false"
    mesh.kubectl("wait", condition, "virtualservice/dangling", "--timeout=30s")
    assert "no service has the host nowhere" in mesh.kubectl("describe", "vs", "dangling")
    argv = (meltemi_command(), "analyze", "-o", "json", "--data", str(mesh.data))
    found = mesh.result(*argv)
    assert [p["code"] for p in json.loads(found.stdout) if p["name"] == "dangling"] == ["MSH0201"]
    mesh.kubectl("delete", "virtualservice", "dangling")


async def test_people_get_a_tree(mesh: Mesh) -> None:
    text = mesh.meltemi("explain", "--from", "productpage-v1", REVIEWS)
    assert "listener" in text
    assert "outbound|9080||reviews.default.svc.cluster.local" in text
