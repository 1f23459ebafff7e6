"""ServiceEntry, WorkloadEntry, WorkloadGroup and Sidecar: what one object may say."""

import msgspec
import pytest
import yaml

from meltemi.api.decode import decode
from meltemi.api.validate import validate
from meltemi.base.problems import Code, Severity

BAD = {
    "ServiceEntry": (
        """
hosts: ["*", good.example.com, "*.wild.example.com"]
addresses: [10.0.0.0/8, nonsense]
resolution: DNS
location: SOMEWHERE
ports:
- {number: 80, name: a, protocol: HTTP, targetPort: 70000}
- {number: 80, name: a, protocol: SMTP}
- {number: 81}
""",
        {
            "spec.hosts[0]",
            "spec.hosts[2]",
            "spec.location",
            "spec.addresses[0]",
            "spec.addresses[1]",
            "spec.ports[0].targetPort",
            "spec.ports[1].protocol",
            "spec.ports[1].name",
            "spec.ports[1].number",
            "spec.ports[2].name",
        },
    ),
    "ServiceEntry, endpoints": (
        """
hosts: [a.example.com]
resolution: STATIC
ports: [{number: 80, name: http}]
workloadSelector: {labels: {}}
endpoints:
- {address: a.name, ports: {other: 1}, weight: -1, locality: a/b/c/d}
- {address: "unix://relative"}
- {}
""",
        {
            "spec.workloadSelector",
            "spec.workloadSelector.labels",
            "spec.endpoints[0].address",
            "spec.endpoints[0].ports",
            "spec.endpoints[0].weight",
            "spec.endpoints[0].locality",
            "spec.endpoints[1].address",
            "spec.endpoints[2].address",
        },
    ),
    "ServiceEntry, NONE": (
        """
hosts: [a.example.com]
resolution: NONE
ports: [{number: 80, name: http, targetPort: 81}]
endpoints: [{address: 10.0.0.1}]
""",
        {"spec.endpoints", "spec.ports[0].targetPort"},
    ),
    "ServiceEntry, DYNAMIC_DNS": (
        """
hosts: [a.example.com]
resolution: DYNAMIC_DNS
location: MESH_INTERNAL
ports: [{number: 80, name: tcp, protocol: TCP}]
""",
        {"spec.hosts[0]", "spec.location", "spec.ports[0].protocol"},
    ),
    "WorkloadEntry": ("{address: '', ports: {a: 0}}", {"spec.address", "spec.ports[a]"}),
    "WorkloadGroup": (
        """
template: {address: 10.0.0.1}
probe: {periodSeconds: -1, httpGet: {port: 0}, exec: {command: []}}
""",
        {
            "spec.template.address",
            "spec.probe",
            "spec.probe.httpGet.port",
            "spec.probe.exec.command",
            "spec.probe.periodSeconds",
        },
    ),
    "Sidecar": (
        """
ingress:
- {port: {number: 80, protocol: HTTP}, bind: here, defaultEndpoint: "10.0.0.1:80"}
- {port: {number: 80, protocol: SMTP}, bind: here, captureMode: MAYBE, tls: {mode: PASSTHROUGH}}
egress:
- {hosts: ["./*"]}
- {port: {number: 5, protocol: HTTP}, bind: "unix:///run/a", hosts: [reviews]}
- {hosts: []}
outboundTrafficPolicy: {mode: REGISTRY_ONLY, egressProxy: {host: ""}}
""",
        {
            "spec.ingress[0].bind",
            "spec.ingress[0].defaultEndpoint",
            "spec.ingress[1].bind",
            "spec.ingress[1].captureMode",
            "spec.ingress[1].port",
            "spec.ingress[1].port.protocol",
            "spec.ingress[1].tls.mode",
            "spec.egress[0]",
            "spec.egress[1].port.number",
            "spec.egress[1].hosts[0]",
            "spec.egress[2].hosts",
            "spec.outboundTrafficPolicy.egressProxy",
            "spec.outboundTrafficPolicy.egressProxy.port",
            "spec.outboundTrafficPolicy.egressProxy.host",
        },
    ),
    "Sidecar, resolving": (
        "{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}",
        {"spec.outboundTrafficPolicy.mode"},
    ),
}
IDLE = {
    "ServiceEntry": (
        """
hosts: [a.example.com]
resolution: STATIC
ports: [{number: 80, name: udp, protocol: UDP}]
endpoints: [{address: 10.0.0.1}]
""",
        {"spec.ports[0].protocol"},
    ),
    "WorkloadGroup": (
        "{probe: {httpGet: {port: 1, scheme: HTTPS}}}",
        {"spec.probe.httpGet.scheme"},
    ),
    "WorkloadGroup, gRPC": ("{probe: {grpc: {port: 1}}}", {"spec.probe.grpc"}),
    "WorkloadGroup, TCP": (
        "{probe: {tcpSocket: {port: 1, host: elsewhere}}}",
        {"spec.probe.tcpSocket.host"},
    ),
    "Sidecar": (
        """
ingress:
- port: {number: 80, protocol: HTTP, targetPort: 81}
  tls: {mode: SIMPLE, credentialName: a, httpsRedirect: true}
  connectionPool:
    http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true, maxConcurrentStreams: 3,
           http2KeepAlive: {interval: 1s, timeout: 1s}}
egress: [{hosts: ["*/*"], port: {number: 80, protocol: HTTP, targetPort: 3}}]
""",
        {
            "spec.ingress[0].port.targetPort",
            "spec.ingress[0].tls.httpsRedirect",
            "spec.ingress[0].connectionPool.http.h2UpgradePolicy",
            "spec.ingress[0].connectionPool.http.useClientProtocol",
            "spec.ingress[0].connectionPool.http.maxConcurrentStreams",
            "spec.ingress[0].connectionPool.http.http2KeepAlive",
            "spec.egress[0].port.targetPort",
        },
    ),
}


def problems(title: str, spec: str) -> dict[str, Code]:
    """What validation finds, by path."""
    kind = title.partition(",")[0]
    body = {"kind": kind, "metadata": {"name": "x", "namespace": "shop"}}
    value = decode(kind, msgspec.json.encode({**body, "spec": yaml.safe_load(spec)})).value
    assert value is not None
    return {p.path: p.code for p in validate(value) if p.severity is not Severity.INFO}


@pytest.mark.parametrize("title", BAD)
def test_what_may_not_be_said(title: str) -> None:
    spec, paths = BAD[title]
    found = problems(title, spec)
    assert set(found) == paths
    assert set(found.values()) == {Code.BAD_VALUE}


@pytest.mark.parametrize("title", IDLE)
def test_what_has_no_effect_is_said(title: str) -> None:
    spec, paths = IDLE[title]
    found = problems(title, spec)
    assert set(found) == paths
    assert set(found.values()) == {Code.NOT_SUPPORTED}
