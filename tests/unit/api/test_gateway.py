"""What a Gateway may say, and how each mistake is named."""

import json
from typing import Any

import pytest

from meltemi.api.decode import decode
from meltemi.api.validate import validate
from meltemi.base.problems import Severity

FILES = {"serverCertificate": "/a.pem", "privateKey": "/a.key"}


def found(spec: dict[str, Any], kind: str = "Gateway") -> list[tuple[str, str]]:
    """(field, severity) of every finding."""
    body = {"kind": kind, "metadata": {"name": "x", "namespace": "default"}, "spec": spec}
    obj = decode(kind, json.dumps(body).encode()).value
    assert obj is not None
    return [(p.path, p.severity.value) for p in validate(obj)]


def server(**changes: Any) -> dict[str, Any]:
    port = {"number": 80, "name": "http", "protocol": "HTTP"} | changes.pop("port", {})
    return {"port": port, "hosts": ["*"], **changes}


def tls(mode: str = "SIMPLE", protocol: str = "HTTPS", **settings: Any) -> dict[str, Any]:
    port = {"number": 443, "name": "https", "protocol": protocol}
    return server(port=port, tls={"mode": mode, **settings})


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "spec.servers"),
        ({"servers": [server(port={"number": 0})]}, "spec.servers[0].port.number"),
        ({"servers": [server(port={"protocol": "QUIC"})]}, "spec.servers[0].port.protocol"),
        ({"servers": [server(port={"name": ""})]}, "spec.servers[0].port.name"),
        ({"servers": [server(hosts=[])]}, "spec.servers[0].hosts"),
        ({"servers": [server(hosts=["a b"])]}, "spec.servers[0].hosts[0]"),
        ({"servers": [server(hosts=["n s/a.org"])]}, "spec.servers[0].hosts[0]"),
        ({"servers": [server(hosts=["a.*.org"])]}, "spec.servers[0].hosts[0]"),
        ({"servers": [server(bind="host")]}, "spec.servers[0].bind"),
        ({"servers": [server(port={"protocol": "HTTPS"})]}, "spec.servers[0].tls"),
        ({"servers": [server(tls={"mode": "SIMPLE", **FILES})]}, "spec.servers[0].tls"),
        ({"servers": [tls("NONE")]}, "spec.servers[0].tls.mode"),
        ({"servers": [tls()]}, "spec.servers[0].tls.credentialName"),
        ({"servers": [tls(credentialName="a", **FILES)]}, "spec.servers[0].tls"),
        ({"servers": [tls(credentialName="Not A Name")]}, "spec.servers[0].tls"),
        ({"servers": [tls(serverCertificate="/a.pem")]}, "spec.servers[0].tls"),
        ({"servers": [tls("MUTUAL", **FILES)]}, "spec.servers[0].tls.caCertificates"),
        ({"servers": [tls(credentialNames=["a", "b", "c"])]},
         "spec.servers[0].tls.credentialNames"),
        ({"servers": [tls(tlsCertificates=[{"privateKey": "/a"}])]},
         "spec.servers[0].tls.tlsCertificates[0]"),
        ({"servers": [tls("PASSTHROUGH", credentialName="a")]}, "spec.servers[0].tls"),
        ({"servers": [tls("ISTIO_MUTUAL", caCertificates="/a")]}, "spec.servers[0].tls"),
        ({"servers": [tls(minProtocolVersion="SSL3", credentialName="a")]},
         "spec.servers[0].tls.minProtocolVersion"),
        ({"servers": [tls(maxProtocolVersion="TLSV1_1", credentialName="a")]},
         "spec.servers[0].tls.maxProtocolVersion"),
        ({"servers": [tls(cipherSuites=["RC4"], credentialName="a")]},
         "spec.servers[0].tls.cipherSuites[0]"),
        ({"servers": [tls("MUTUAL", verifyCertificateSpki=["x"], credentialName="a")]},
         "spec.servers[0].tls.verifyCertificateSpki[0]"),
        ({"servers": [tls("MUTUAL", verifyCertificateHash=["x"], credentialName="a")]},
         "spec.servers[0].tls.verifyCertificateHash[0]"),
        ({"servers": [tls(subjectAltNames=["x"], credentialName="a")]}, "spec.servers[0].tls"),
        ({"servers": [tls(credentialName="a"), tls(credentialName="a")]},
         "spec.servers[1].port.name"),
        ({"servers": [server(name="a"), server(name="a", port={"number": 81})]},
         "spec.servers[1].name"),
        ({"servers": [server(port={"protocol": "TCP"}, tls={"httpsRedirect": True})]},
         "spec.servers[0].tls.httpsRedirect"),
    ],
)  # fmt: skip
def test_what_a_gateway_may_not_say(spec: dict[str, Any], path: str) -> None:
    assert found(spec) == [(path, Severity.ERROR.value)]


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"servers": [server(port={"targetPort": 8080})]}, "spec.servers[0].port.targetPort"),
        ({"servers": [server(defaultEndpoint="127.0.0.1:1")]}, "spec.servers[0].defaultEndpoint"),
    ],
)
def test_what_has_no_effect_is_said(spec: dict[str, Any], path: str) -> None:
    assert found(spec) == [(path, Severity.WARNING.value)]


@pytest.mark.parametrize(
    "spec",
    [
        {"servers": [server(hosts=["./a.org", "*/b.org", "ns/*.c.org", "d"])]},
        {"servers": [server(tls={"httpsRedirect": True}), tls(credentialName="shop")]},
        {"servers": [tls("PASSTHROUGH", "TLS"), tls("AUTO_PASSTHROUGH", "TLS")]},
        {"servers": [tls("MUTUAL", credentialName="other/shop"), server(bind="10.0.0.1")]},
        {"servers": [tls("OPTIONAL_MUTUAL", caCertCredentialName="ca", **FILES)]},
        {"servers": [server(port={"protocol": p}) for p in ("grpc", "GRPC-WEB", "Mongo", "TCP")]},
    ],
)
def test_what_a_gateway_may_say(spec: dict[str, Any]) -> None:
    assert found(spec) == []


def test_parameters_of_an_ingress_class_have_no_effect() -> None:
    spec = {"controller": "istio.io/ingress-controller", "parameters": {"kind": "A", "name": "b"}}
    assert found(spec, "IngressClass") == [("spec.parameters", Severity.WARNING.value)]
