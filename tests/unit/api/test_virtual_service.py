"""What a VirtualService may not say: each finding names its field."""

import json
from typing import Any

import pytest
import yaml

from meltemi.api.decode import decode
from meltemi.api.validate import validate
from meltemi.base.problems import Severity

ROUTE = "route: [{destination: {host: a}}]"


def findings(spec: str, kind: str = "VirtualService") -> dict[str, Severity]:
    body: Any = {"metadata": {"name": "x", "namespace": "default"}, "spec": yaml.safe_load(spec)}
    outcome = decode(kind, json.dumps(body).encode())
    assert outcome.value is not None, outcome.problems
    return {p.path: p.severity for p in validate(outcome.value)}


def http(text: str) -> str:
    return f"hosts: [a]\nhttp: [{{{text}}}]"


WRONG = [
    ("hosts: [a, a]\ntcp: [{" + ROUTE + "}]", "spec.hosts[1]"),
    ("hosts: ['*']\ntcp: [{" + ROUTE + "}]", "spec.hosts[0]"),
    ("hosts: [a.*.b]\ntcp: [{" + ROUTE + "}]", "spec.hosts[0]"),
    ("hosts: [a]", "spec"),
    ("hosts: [a]\ngateways: ['A/b']\ntcp: [{" + ROUTE + "}]", "spec.gateways[0]"),
    ("hosts: [a]\nexportTo: ['*', '*']\ntcp: [{" + ROUTE + "}]", "spec.exportTo[1]"),
    ("hosts: [a]\nexportTo: ['Not A Name']\ntcp: [{" + ROUTE + "}]", "spec.exportTo[0]"),
    ("gateways: [g]\nhttp: [{" + ROUTE + "}]", "spec.gateways"),
    ("tcp: [{" + ROUTE + "}]", "spec.tcp"),
    ("http: [{delegate: {name: b}}]", "spec.http[0].delegate"),
    (http("delegate: {namespace: b}"), "spec.http[0].delegate.name"),
    (http("redirect: {uri: /a}, " + ROUTE), "spec.http[0]"),
    (http("match: [{uri: {prefix: /}}]"), "spec.http[0]"),
    (http("match: [{uri: {exact: a, prefix: b}}], " + ROUTE), "spec.http[0].match[0].uri"),
    (http("match: [{uri: {regex: '*'}}], " + ROUTE), "spec.http[0].match[0].uri.regex"),
    (http("match: [{uri: {regex: '(?=a)'}}], " + ROUTE), "spec.http[0].match[0].uri.regex"),
    (
        http("match: [{uri: {regex: '((a{50}){20}){10}'}}], " + ROUTE),
        "spec.http[0].match[0].uri.regex",
    ),
    (http("match: [{headers: {'a b': {exact: x}}}], " + ROUTE), "spec.http[0].match[0].headers"),
    (
        http("match: [{headers: {'@request.auth.nothing': {exact: x}}}], " + ROUTE),
        "spec.http[0].match[0].headers",
    ),
    (http("match: [{port: 70000}], " + ROUTE), "spec.http[0].match[0].port"),
    (
        http("match: [{sourceLabels: {'a b': c}}], " + ROUTE),
        "spec.http[0].match[0].sourceLabels",
    ),
    (http("route: []"), "spec.http[0]"),
    (
        http("route: [{destination: {host: a}}, {destination: {host: b}}]"),
        "spec.http[0].route",
    ),
    (
        http("route: [{destination: {host: a, port: {number: 0}}}]"),
        "spec.http[0].route[0].destination.port.number",
    ),
    (http("redirect: {redirectCode: 305}"), "spec.http[0].redirect.redirectCode"),
    (
        http("redirect: {port: 1, derivePort: FROM_REQUEST_PORT}"),
        "spec.http[0].redirect.derivePort",
    ),
    (http("redirect: {uri: /a}, rewrite: {uri: /b}"), "spec.http[0].rewrite"),
    (http("directResponse: {status: 100}"), "spec.http[0].directResponse.status"),
    (
        http("directResponse: {status: 200, body: {string: a, bytes: Yg==}}"),
        "spec.http[0].directResponse.body",
    ),
    (
        http("directResponse: {status: 200, body: {bytes: '%'}}"),
        "spec.http[0].directResponse.body.bytes",
    ),
    (http("rewrite: {}, " + ROUTE), "spec.http[0].rewrite"),
    (
        http(r"rewrite: {uriRegexRewrite: {match: a, rewrite: '\2'}}, " + ROUTE),
        "spec.http[0].rewrite.uriRegexRewrite.rewrite",
    ),
    (http("timeout: 0.0001s, " + ROUTE), "spec.http[0].timeout"),
    (http("retries: {attempts: -1}, " + ROUTE), "spec.http[0].retries.attempts"),
    (http("retries: {retryOn: 5xx}, " + ROUTE), "spec.http[0].retries.attempts"),
    (http("retries: {attempts: 1, retryOn: sometimes}, " + ROUTE), "spec.http[0].retries.retryOn"),
    (http("fault: {}, " + ROUTE), "spec.http[0].fault"),
    (
        http("fault: {delay: {exponentialDelay: 1s}}, " + ROUTE),
        "spec.http[0].fault.delay.exponentialDelay",
    ),
    (
        http("fault: {abort: {http2Error: x}}, " + ROUTE),
        "spec.http[0].fault.abort.http2Error",
    ),
    (
        http("fault: {abort: {grpcStatus: NOPE}}, " + ROUTE),
        "spec.http[0].fault.abort.grpcStatus",
    ),
    (
        http("fault: {abort: {httpStatus: 500, percentage: {value: 101}}}, " + ROUTE),
        "spec.http[0].fault.abort.percentage.value",
    ),
    (
        http("mirror: {host: b}, mirrors: [{destination: {host: c}}], " + ROUTE),
        "spec.http[0].mirrors",
    ),
    (http("mirror: {host: b}, mirrorPercent: 101, " + ROUTE), "spec.http[0].mirrorPercent"),
    (
        http("corsPolicy: {allowMethods: [FETCH]}, " + ROUTE),
        "spec.http[0].corsPolicy.allowMethods[0]",
    ),
    (http("corsPolicy: {allowOrigins: [{}]}, " + ROUTE), "spec.http[0].corsPolicy.allowOrigins[0]"),
    (http("corsPolicy: {maxAge: 1.5s}, " + ROUTE), "spec.http[0].corsPolicy.maxAge"),
    (
        http("headers: {request: {add: {host: x}}}, " + ROUTE),
        "spec.http[0].headers.request.add",
    ),
    (
        http("headers: {response: {set: {':status': '1'}}}, " + ROUTE),
        "spec.http[0].headers.response.set",
    ),
    (
        http("headers: {request: {remove: [host]}}, " + ROUTE),
        "spec.http[0].headers.request.remove[0]",
    ),
    (
        http("headers: {request: {set: {a: '100%'}}}, " + ROUTE),
        "spec.http[0].headers.request.set[a]",
    ),
    (
        http("headers: {request: {set: {a: '%ENVIRONMENT(TOKEN)%'}}}, " + ROUTE),
        "spec.http[0].headers.request.set[a]",
    ),
    ("hosts: [a.b]\ntls: [{" + ROUTE + "}]", "spec.tls[0].match"),
    (
        "hosts: [a.b]\ntls: [{match: [{sniHosts: [c.d]}], " + ROUTE + "}]",
        "spec.tls[0].match[0].sniHosts[0]",
    ),
    (
        "hosts: [a.b]\ntcp: [{match: [{destinationSubnets: [10.0.0.0/99]}], " + ROUTE + "}]",
        "spec.tcp[0].match[0].destinationSubnets[0]",
    ),
]


@pytest.mark.parametrize(("spec", "path"), WRONG)
def test_what_a_virtual_service_may_not_say(spec: str, path: str) -> None:
    assert findings(spec).get(path) is Severity.ERROR


def test_what_has_no_effect_is_said() -> None:
    tcp = "hosts: [a]\ntcp: [{match: [{sourceSubnet: 10.0.0.0/8}], " + ROUTE + "}]"
    assert findings(tcp) == {"spec.tcp[0].match[0].sourceSubnet": Severity.WARNING}
    large = http("directResponse: {status: 200, body: {string: " + "x" * 110_000 + "}}")
    assert findings(large) == {"spec.http[0].directResponse.body": Severity.WARNING}


POLICIES = [
    ("loadBalancer: {simple: FASTEST}", "loadBalancer.simple"),
    ("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}", "loadBalancer"),
    ("loadBalancer: {consistentHash: {}}", "loadBalancer.consistentHash"),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}",
        "loadBalancer.consistentHash",
    ),
    (
        "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
        "loadBalancer.consistentHash.maglev.tableSize",
    ),
    (
        "loadBalancer: {warmup: {duration: 1s}, warmupDurationSecs: 1s}",
        "loadBalancer.warmupDurationSecs",
    ),
    ("loadBalancer: {warmup: {minimumPercent: 5}}", "loadBalancer.warmup.duration"),
    (
        "loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
        "loadBalancer.localityLbSetting.failover[0].to",
    ),
    (
        "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}}",
        "loadBalancer.localityLbSetting.distribute[0].to",
    ),
    (
        "loadBalancer: {localityLbSetting: {failoverPriority: [a], failover: [{from: a, to: b}]}}",
        "loadBalancer.localityLbSetting.failoverPriority",
    ),
    ("connectionPool: {}", "connectionPool"),
    ("connectionPool: {tcp: {maxConnections: -1}}", "connectionPool.tcp.maxConnections"),
    ("connectionPool: {tcp: {connectTimeout: 0s}}", "connectionPool.tcp.connectTimeout"),
    (
        "connectionPool: {tcp: {tcpKeepalive: {time: 10ms}}}",
        "connectionPool.tcp.tcpKeepalive.time",
    ),
    (
        "connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}",
        "connectionPool.http.useClientProtocol",
    ),
    ("outlierDetection: {interval: 0s}", "outlierDetection.interval"),
    ("outlierDetection: {maxEjectionPercent: 101}", "outlierDetection.maxEjectionPercent"),
    ("tls: {mode: MUTUAL}", "tls.clientCertificate"),
    ("tls: {mode: ISTIO_MUTUAL, caCertificates: /x}", "tls.caCertificates"),
    ("tls: {mode: SIMPLE, privateKey: /x}", "tls.privateKey"),
    ("tls: {mode: SIMPLE, credentialName: x, caCertificates: /x}", "tls.caCertificates"),
    ("tls: {mode: SIMPLE, caCrl: /x}", "tls.caCrl"),
    ("tunnel: {protocol: GET, targetHost: a.b, targetPort: 1}", "tunnel.protocol"),
    ("tunnel: {targetHost: '*.b', targetPort: 1}", "tunnel.targetHost"),
    ("proxyProtocol: {version: V3}", "proxyProtocol.version"),
    ("retryBudget: {percent: {value: 101}}", "retryBudget.percent.value"),
    (
        "portLevelSettings: [{port: {number: 1}}, {port: {number: 1}}]",
        "portLevelSettings[1].port.number",
    ),
    (
        "loadBalancer: {zoneAwareLbSetting: {minClusterSize: -1}}",
        "loadBalancer.zoneAwareLbSetting.minClusterSize",
    ),
    (
        "loadBalancer: {zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}}",
        "loadBalancer.zoneAwareLbSetting.failoverPriority[0]",
    ),
    ("{}", ""),
]


@pytest.mark.parametrize(("policy", "path"), POLICIES)
def test_what_a_destination_rule_may_not_say(policy: str, path: str) -> None:
    body = yaml.safe_dump({"host": "a", "trafficPolicy": yaml.safe_load(policy)})
    where = f"spec.trafficPolicy.{path}".rstrip(".")
    assert findings(body, "DestinationRule").get(where) is Severity.ERROR


@pytest.mark.parametrize(
    ("policy", "path"),
    [
        (
            "loadBalancer: {simple: RANDOM, warmupDurationSecs: 1s}",
            "loadBalancer.warmupDurationSecs",
        ),
    ],
)
def test_what_a_destination_rule_says_in_vain(policy: str, path: str) -> None:
    body = yaml.safe_dump({"host": "a", "trafficPolicy": yaml.safe_load(policy)})
    found = findings(body, "DestinationRule")
    assert found == {f"spec.trafficPolicy.{path}": Severity.WARNING}


def test_who_uses_a_secret_is_said() -> None:
    spec = "host: a\ntrafficPolicy: {tls: {mode: SIMPLE, credentialName: x}}"
    path = "spec.trafficPolicy.tls.credentialName"
    assert findings(spec, "DestinationRule") == {path: Severity.INFO}
    selecting = spec + "\nworkloadSelector: {matchLabels: {a: b}}"
    assert findings(selecting, "DestinationRule") == {}
