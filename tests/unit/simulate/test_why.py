"""What mesh users ask `meltemi explain`, and the line of the answer that decides.

Each line is looked for as people read it; `-o json` prints the same values.
"""

import re
from typing import Any

import pytest
from tests.sim.given import Given

from meltemi.cli.explain_text import show
from meltemi.simulate.ask import BadQuestion, Question
from meltemi.simulate.explain import explain
from meltemi.simulate.world import raw_objects

Json = dict[str, Any]
GIVEN: Json = {
    "include": ["gateway"],
    "services": {
        "safe": {"ports": {"tls": 8443}, "selector": {"app": "secure"}},
        "empty": {"ports": {"http": 9080}},
        "bare": {"ports": {"http": 9080}, "headless": True, "selector": {"app": "ratings"}},
    },
}
TO: Json = {"route": [{"destination": {"host": "reviews"}}]}
SERVER: Json = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
HOST = "reviews.default.svc.cluster.local"
REVIEWS, AT_GATEWAY = "http://reviews:9080/", "http://shop.example.com/"
STRANGER = {"origin": "gateway/front"}


def made(kind: str, name: str, namespace: str, spec: Json) -> Json:
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def routes(name: str = "rules", namespace: str = "default", **spec: Any) -> Json:
    return made("VirtualService", name, namespace, {"hosts": ["reviews"], "http": [TO], **spec})


def to_subset(subset: str) -> Json:
    target = {"destination": {"host": "reviews", "subset": subset}}
    return routes(http=[{"route": [target]}])


def policy(name: str = "policy", namespace: str = "default", **spec: Any) -> Json:
    return made("DestinationRule", name, namespace, {"host": "reviews", **spec})


def plain(name: str = "policy", namespace: str = "default", **spec: Any) -> Json:
    return policy(name, namespace, trafficPolicy={"tls": {"mode": "DISABLE"}}, **spec)


def gateway(**spec: Any) -> Json:
    selector = {"istio": "ingressgateway"}
    return made("Gateway", "web", "default", {"selector": selector, "servers": [SERVER], **spec})


def mesh(text: str) -> Json:
    return {
        "kind": "ConfigMap",
        "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": text},
    }


def closed(*hosts: str) -> Json:
    return made(
        "Sidecar",
        "default",
        "default",
        {"egress": [{"hosts": list(hosts)}], "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}},
    )


def patch(kind: str, **match: Json) -> Json:
    wanted = {"context": "SIDECAR_OUTBOUND", **match}
    change = {"operation": "MERGE", "value": {}}
    patches = [{"applyTo": kind, "match": wanted, "patch": change}]
    return made("EnvoyFilter", "patch", "default", {"configPatches": patches})


ONLY_KNOWN = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"
JASON = {"match": [{"headers": {"end-user": {"exact": "jason"}}}], **TO}
FAULTS = {
    "delay": {"fixedDelay": "2s", "percentage": {"value": 50}},
    "abort": {"httpStatus": 503, "percentage": {"value": 10}},
}
OUTLIERS = {"outlierDetection": {"consecutive5xxErrors": 5}}
STRICT = made("PeerAuthentication", "default", "default", {"mtls": {"mode": "STRICT"}})

QUESTIONS: dict[str, tuple[list[Json], str, Json, str]] = {
    "404: no rule takes it": (
        [routes(http=[JASON])],
        REVIEWS,
        {},
        "404 NR  no route of reviews.default.svc.cluster.local:9080 takes the request: "
        "0.0: header end-user is absent  VirtualService/rules.default spec.http[0].match[0]",
    ),
    "404: the gateway has other hosts": (
        [gateway(), routes(hosts=["shop.example.com"], gateways=["web"])],
        "http://other.example.com/",
        STRANGER,
        "404 NR  no virtual host of http.8080 is for other.example.com: there are shop.example.com",
    ),
    "404: bound to another gateway": (
        [gateway(), routes(hosts=["shop.example.com"], gateways=["wob"])],
        AT_GATEWAY,
        STRANGER,
        "✗ VirtualService/rules.default  it is bound to default/wob, and the Gateways of this "
        "proxy are: default/web  VirtualService/rules.default spec.gateways",
    ),
    "nothing listens: the selector": (
        [gateway(selector={"istio": "nobody"})],
        AT_GATEWAY,
        STRANGER,
        "✗ Gateway/web.default  its selector istio=nobody does not select front",
    ),
    "not mesh": (
        [routes(gateways=["web"])],
        REVIEWS,
        {},
        "✗ VirtualService/rules.default  it is bound to default/web only: add mesh for requests "
        "from pods",
    ),
    "VirtualService: exportTo": (
        [routes(namespace="other", hosts=[HOST], exportTo=["."])],
        REVIEWS,
        {},
        "✗ VirtualService/rules.other  it is not exported to namespace default",
    ),
    "VirtualService: a short name": (
        [routes(namespace="other")],
        REVIEWS,
        {},
        f"its host reviews means reviews.other.svc.cluster.local: write {HOST}",
    ),
    "VirtualService: the older has the host": (
        [routes("a", http=[{"timeout": "1s", **TO}]), routes("b")],
        REVIEWS,
        {},
        "✗ VirtualService/b.default  VirtualService/a.default has the host: it is older",
    ),
    "VirtualService: an earlier rule": (
        [routes(http=[JASON, TO])],
        REVIEWS,
        {},
        "✗ 0.0  header end-user is absent  VirtualService/rules.default spec.http[0].match[0]",
    ),
    "VirtualService: no delegate": (
        [routes(http=[{"delegate": {"name": "nobody"}}, TO])],
        REVIEWS,
        {},
        "spec.http[0].delegate: there is no VirtualService/nobody.default",
    ),
    "503 NC: no such subset": (
        [to_subset("v9"), policy(subsets=[{"name": "v1", "labels": {"version": "v1"}}])],
        REVIEWS,
        {},
        f"503 NC  no DestinationRule that applies to {HOST} defines the subset v9",
    ),
    "503 UH: the subset is empty": (
        [to_subset("v9"), policy(subsets=[{"name": "v9", "labels": {"version": "v9"}}])],
        REVIEWS,
        {},
        f"503 UH  none of the 3 endpoints of {HOST} is of subset v9",
    ),
    "503 UH: nobody is selected": (
        [],
        "http://empty:9080/",
        {},
        "503 UH  empty.default.svc.cluster.local has no endpoint: no pod of namespace default has "
        "the labels app=empty",
    ),
    "DestinationRule: a short name": (
        [plain(namespace="other")],
        REVIEWS,
        {},
        f"✗ DestinationRule/policy.other  its host reviews means reviews.other.svc.cluster.local: "
        f"write {HOST}",
    ),
    "DestinationRule: the namespace": (
        [plain(namespace="third", host=HOST)],
        REVIEWS,
        {},
        f"✗ DestinationRule/policy.third  rules of {HOST} are looked up in default, then "
        "istio-system only",
    ),
    "DestinationRule: another is nearer": (
        [plain("mine"), policy("root", "istio-system", host=HOST)],
        REVIEWS,
        {},
        "✗ DestinationRule/root.istio-system  DestinationRule/mine.default is nearer",
    ),
    "DestinationRule: not for this client": (
        [plain(workloadSelector={"matchLabels": {"app": "else"}})],
        REVIEWS,
        {},
        "✗ DestinationRule/policy.default  it does not select client",
    ),
    "not mutual TLS": (
        [plain()],
        REVIEWS,
        {},
        "TLS mode DISABLE  DestinationRule/policy.default spec.trafficPolicy.tls",
    ),
    "refused: STRICT": (
        [STRICT],
        REVIEWS,
        {"origin": "legacy"},
        "plaintext to port 9080 is refused: STRICT: mutual TLS only",
    ),
    "hidden by the Sidecar": (
        [closed("./ratings.default.svc.cluster.local")],
        REVIEWS,
        {},
        f"✗ Service/reviews.default  Sidecar/default.default imports no host that covers {HOST}",
    ),
    "502: no ServiceEntry": (
        [mesh(ONLY_KNOWN)],
        "http://api.example.com:9080/",
        {},
        "502  REGISTRY_ONLY: the mesh knows nothing there; a ServiceEntry would tell it  "
        "ConfigMap/istio.istio-system data.mesh.outboundTrafficPolicy",
    ),
    "closed: no ServiceEntry": (
        [mesh(ONLY_KNOWN)],
        "https://api.example.com/",
        {},
        "the connection is closed UH  REGISTRY_ONLY",
    ),
    "the port's name": (
        [routes(hosts=["db"])],
        "http://db:5432/",
        {},
        "✗ VirtualService/rules.default  port 5432 is not declared to speak HTTP, so http rules do "
        "not apply",
    ),
    "http to a port of TLS": (
        [],
        "http://safe:8443/",
        {},
        "the client sends plaintext HTTP to a port declared to speak TLS",
    ),
    "https to a port of HTTP": (
        [],
        "https://reviews:9080/",
        {},
        "port 9080 is declared to speak http, and the client speaks TLS of its own",
    ),
    "no such port": (
        [],
        "http://reviews:9081/",
        {},
        "✗ Service/reviews.default  it has no port 9081: it has 9080",
    ),
    "headless": (
        [],
        "http://bare:9080/",
        {},
        "bare.default.svc.cluster.local is headless: the address of one of its pods",
    ),
    "defaults": ([], REVIEWS, {}, "retries 2 on connect-failure,"),
    "timeout": (
        [routes(http=[{"timeout": "3s", **TO}])],
        REVIEWS,
        {},
        "timeout 3s  VirtualService/rules.default spec.http[0].timeout",
    ),
    "outliers": (
        [policy(trafficPolicy=OUTLIERS)],
        REVIEWS,
        {},
        "outlier detection consecutive5xxErrors 5  DestinationRule/policy.default "
        "spec.trafficPolicy.outlierDetection",
    ),
    "EnvoyFilter: a route": (
        [patch("HTTP_ROUTE", routeConfiguration={"name": "9080"})],
        REVIEWS,
        {},
        "uncertain route default  MERGE of HTTP_ROUTE may change it: what it does is not simulated "
        " EnvoyFilter/patch.default spec.configPatches[0]",
    ),
    "EnvoyFilter: the cluster": (
        [patch("CLUSTER", cluster={"service": HOST})],
        REVIEWS,
        {},
        f"uncertain cluster outbound|9080||{HOST}  MERGE of CLUSTER may change it",
    ),
    "EnvoyFilter: the listener": (
        [patch("HTTP_FILTER", listener={"portNumber": 9080})],
        REVIEWS,
        {},
        "uncertain listener 0.0.0.0_9080  MERGE of HTTP_FILTER may change it",
    ),
    "EnvoyFilter: elsewhere": (
        [patch("HTTP_ROUTE", routeConfiguration={"name": "8000"})],
        REVIEWS,
        {},
        "EnvoyFilter/patch.default patches this proxy, and nothing on this way",
    ),
    "mirror": (
        [routes(http=[{"mirror": {"host": "ratings"}, **TO}])],
        REVIEWS,
        {},
        "mirror 100% outbound|9080||ratings.default.svc.cluster.local",
    ),
    "fault": (
        [routes(http=[{"fault": FAULTS, **TO}])],
        REVIEWS,
        {},
        "503 FI  fault injected for 10 % of requests  VirtualService/rules.default "
        "spec.http[0].fault.abort",
    ),
    "delay": (
        [routes(http=[{"fault": FAULTS, **TO}])],
        REVIEWS,
        {},
        "2s for 50% of requests",
    ),
}


@pytest.mark.parametrize("why", QUESTIONS)
def test_the_answer_has_the_line_that_decides(why: str, capsys: pytest.CaptureFixture[str]) -> None:
    objects, url, more, line = QUESTIONS[why]
    given = Given()
    given.add({**GIVEN, "objects": objects})
    question = Question(**{"url": url, "origin": "client", **more})
    show(explain(raw_objects(given.documents()), question), with_before=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert " ".join(line.split()) in printed


def test_nothing_is_called_ignored_that_has_its_say(capsys: pytest.CaptureFixture[str]) -> None:
    given = Given()
    versions = [{"name": "v1", "labels": {"version": "v1"}}]
    given.add({**GIVEN, "objects": [to_subset("v1"), policy(subsets=versions), gateway()]})
    found = explain(raw_objects(given.documents()), Question(url=REVIEWS, origin="client"))
    assert found.trace.overlooked == ()
    assert found.trace.warning == ""


@pytest.mark.parametrize(
    ("url", "origin", "reason"),
    [
        ("reviews", "client", "expected http://, https://, grpc://, tls:// or tcp:// and a host"),
        ("http://reviews:99999", "client", "Port out of range"),
        ("tcp://reviews", "client", "name the port"),
        (REVIEWS, "clint", "no pod clint in namespace default; there are: client"),
        (REVIEWS, "gateway/client.default", "is not a gateway"),
    ],
)
def test_a_bad_question_says_what_is_wrong(url: str, origin: str, reason: str) -> None:
    given = Given()
    given.add(GIVEN)
    with pytest.raises(BadQuestion, match=re.escape(reason)):
        explain(raw_objects(given.documents()), Question(url=url, origin=origin))
