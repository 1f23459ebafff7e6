"""`meltemi explain` on files alone: what it prints, where it points, how it ends."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from meltemi.cli.main import app

BOOKINFO = Path(__file__).parents[3] / "samples" / "bookinfo"
RULES = BOOKINFO / "networking"


def _explain(*argv: str) -> Any:
    platform = ("--offline", "-f", str(BOOKINFO / "platform"))
    return CliRunner().invoke(app, ["explain", *platform, *argv])


def _from_page(url: str, *argv: str) -> Any:
    return _explain("--from", "productpage-v1", url, *argv)


def test_a_step_names_the_file_and_line_behind_it() -> None:
    rule = RULES / "virtual-service-reviews-test-v2.yaml"
    found = _from_page(
        "http://reviews:9080/reviews/0",
        *("-f", str(RULES / "destination-rule-all.yaml"), "-f", str(rule)),
        *("-H", "end-user: jason", "-o", "json"),
    )
    assert found.exit_code == 0, found.output
    trace = json.loads(found.stdout)["trace"]
    choice = trace["route"]["choice"]
    (because,) = choice["because"]
    assert (because["file"], because["path"]) == (str(rule), "spec.http[0].match[0]")
    assert "match" in rule.read_text().splitlines()[because["line"] - 2]
    assert trace["branches"][0]["places"][0]["workload"] == "reviews-v2"


def test_rules_passed_over_say_why() -> None:
    rules = [
        RULES / f for f in ("destination-rule-all.yaml", "virtual-service-reviews-test-v2.yaml")
    ]
    files = [word for rule in rules for word in ("-f", str(rule))]
    found = _from_page("http://reviews:9080/reviews/0", *files)
    assert "header end-user is absent" in found.stdout
    assert "reviews-v1" in found.stdout


def test_a_request_that_surely_fails_ends_with_four_and_the_problem() -> None:
    rule = RULES / "virtual-service-reviews-80-20.yaml"
    found = _from_page("http://reviews:9080/", "-f", str(rule))
    assert found.exit_code == 4
    assert "503 NC" in found.stdout
    assert "MSH0202" in found.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--from", "nobody", "http://reviews:9080/"), "no pod nobody in namespace default"),
        (("--from", "productpage-v1", "reviews"), "expected http://"),
        (("--from", "productpage-v1", "tcp://reviews"), "name the port"),
        (("--from", "productpage-v1", "http://reviews:99999/"), "out of range"),
        (("--from", "productpage-v1", "http://reviews/", "-H", "x"), "NAME: VALUE"),
        (("--from", "productpage-v1", "http://reviews/", "-f", "/nowhere.yaml"), "/nowhere.yaml"),
    ],
)
def test_a_bad_question_ends_with_two_and_one_sentence(argv: tuple[str, ...], said: str) -> None:
    found = _explain(*argv)
    assert found.exit_code == 2
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    broken = tmp_path / "rule.yaml"
    broken.write_text("kind: VirtualService\nmetadata: {name: a\n")
    found = _from_page("http://reviews:9080/", "-f", str(broken))
    assert found.exit_code == 2
    assert f"{broken}:3" in found.stderr


def test_tls_of_the_client_itself_shows_only_its_name() -> None:
    found = _from_page("https://example.com/", "-o", "json")
    trace = json.loads(found.stdout)["trace"]
    assert trace["request"] is None
    assert trace["connection"]["sni"] == "example.com"
    assert trace["branches"][0]["cluster"]["name"] == "PassthroughCluster"


def test_only_problems_on_the_way_are_told(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        (RULES / "virtual-service-reviews-80-20.yaml").read_text()
        + """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: elsewhere}
spec: {hosts: [details], http: [{route: [{destination: {host: nowhere}}]}]}
"""
    )
    found = _from_page("http://reviews:9080/", "-f", str(rules), "-o", "json")
    assert {p["name"] for p in json.loads(found.stdout)["problems"]} == {"reviews"}


def test_what_is_not_simulated_is_said(tmp_path: Path) -> None:
    patch = tmp_path / "filter.yaml"
    patch.write_text(
        """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patch}
spec:
  workloadSelector: {labels: {app: productpage}}
  configPatches:
  - applyTo: CLUSTER
    patch: {operation: MERGE, value: {connect_timeout: 1s}}
"""
    )
    found = _from_page("http://reviews:9080/", "-f", str(patch), "-o", "json")
    assert json.loads(found.stdout)["unsimulated"] == ["EnvoyFilter/patch.default"]
    other = _explain("--from", "details-v1", "http://reviews:9080/", "-f", str(patch), "-o", "json")
    assert json.loads(other.stdout)["unsimulated"] == []


DUAL = """
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  clusterIPs: ["10.43.9.9", "fd00:10:43::99"]
  clusterIP: 10.43.9.9
  ipFamilyPolicy: RequireDualStack
  selector: {app: reviews, version: v2}
  ports: [{name: http, port: 80, targetPort: 9080}, {name: tcp, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: alone}
spec:
  ipFamilies: [IPv6]
  selector: {app: reviews, version: v2}
  ports: [{name: http, port: 80, targetPort: 9080}]
"""


@pytest.mark.parametrize(
    ("url", "listener", "cluster", "address"),
    [
        ("http://[fd00:10:43::99]:80/", "0.0.0.0_80", "outbound|80||six", "10.44."),
        ("http://[FD00:10:43::99]/", "0.0.0.0_80", "outbound|80||six", "10.44."),
        ("tcp://[fd00:10:43::99]:9000", "fd00:10:43::99_9000", "outbound|9000||six", "10.44."),
        ("http://alone/", "0.0.0.0_80", "outbound|80||alone", "fd00:10:44::"),
        ("tcp://[2001:db8::1]:443", "virtualOutbound", "PassthroughCluster", "2001:db8::1"),
    ],
)
def test_the_way_to_an_ipv6_address_is_found(
    tmp_path: Path, url: str, listener: str, cluster: str, address: str
) -> None:
    (tmp_path / "dual.yaml").write_text(DUAL)
    found = _from_page(url, "-f", str(tmp_path / "dual.yaml"), "-o", "json")
    assert found.exit_code == 0, found.output
    trace = json.loads(found.stdout)["trace"]
    assert trace["listener"]["name"] == listener
    (branch,) = trace["branches"]
    assert branch["cluster"]["name"].startswith(cluster)
    assert branch["places"][0]["address"].startswith(address)
