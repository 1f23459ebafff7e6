"""What a gateway proxy is sent: listeners, chains, routes, secrets, and who loses a conflict."""

from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.certificates import Authority, Signed, tls_secret

from meltemi.base.problems import Code, Problem, Severity
from meltemi.base.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from meltemi.compile import names

from .conftest import SHOP, Mesh, endpoints, pod, service
from .test_compile import accepted, static_bootstrap

FRONT = """
---
kind: Service
metadata: {name: front, namespace: istio-system}
spec:
  clusterIP: 10.43.9.9
  selector: {istio: ingressgateway}
  ports:
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
  - {name: tcp, port: 31400}
"""
AUTHORITY = Authority()
SHOP_CERTIFICATE = AUTHORITY.sign("shop.example.com")


class Front:
    """A gateway proxy of a mesh, by default with the right to read its namespace's Secrets."""

    def __init__(self, mesh: Mesh, *, reads_secrets: bool = True, namespace: str = "istio-system"):
        self.mesh = mesh
        mesh.apply(SHOP + FRONT)
        self.node = mesh.connect(
            "router", "10.44.9.9", "front-1", {"istio": "ingressgateway"}, namespace=namespace
        )
        if reads_secrets:
            self.grant()

    def grant(self) -> None:
        node = self.mesh.proxies.get(self.node)
        assert node is not None
        self.mesh.proxies.set(self.node, msgspec.structs.replace(node, reads_secrets=True))
        self.mesh.propagate()

    def apply(self, *texts: str) -> None:
        self.mesh.apply("\n---\n".join(texts))

    def listeners(self) -> dict[str, Any]:
        return self.mesh.sees(self.node, LISTENER)

    def chains(self, name: str = "0.0.0.0_8443") -> list[dict[str, Any]]:
        return list(self.listeners()[name]["filter_chains"])

    def hosts(self, name: str) -> dict[str, dict[str, Any]]:
        """Virtual hosts of a route configuration, by domain."""
        found = self.mesh.sees(self.node, ROUTE)[name].get("virtual_hosts", [])
        return {domain: host for host in found for domain in host["domains"]}

    def problems(self) -> list[Problem]:
        """What is wrong; not what is only good to know."""
        found = self.mesh.graph.problems()
        return [p for p in found if p.severity is not Severity.INFO]


@pytest.fixture
def front(mesh: Mesh) -> Front:
    return Front(mesh)


def gateway(name: str, *servers: dict[str, Any], namespace: str = "default") -> str:
    return yaml.safe_dump(
        {
            "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": {"istio": "ingressgateway"}, "servers": list(servers)},
        }
    )


def http(*hosts: str, port: int = 80, redirect: bool = False, bind: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {
        "port": {"number": port, "name": f"http-{port}", "protocol": "HTTP"},
        "hosts": list(hosts),
    }
    if redirect:
        found["tls"] = {"httpsRedirect": True}
    if bind:
        found["bind"] = bind
    return found


def tls(*hosts: str, mode: str = "SIMPLE", protocol: str = "HTTPS", **settings: Any) -> Any:
    name = settings.pop("name", "https")
    port = settings.pop("port", 443)
    if mode in ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL") and not settings.keys() & {
        "credentialNames", "serverCertificate", "tlsCertificates",
    }:  # fmt: skip
        settings.setdefault("credentialName", "shop")
    return {
        "port": {"number": port, "name": name, "protocol": protocol},
        "hosts": list(hosts),
        "tls": {"mode": mode, **settings},
    }


def routes(
    name: str,
    *hosts: str,
    gateways: tuple[str, ...] = ("web",),
    to: str = "reviews",
    prefix: str = "",
    namespace: str = "default",
    kind: str = "http",
    **match: Any,
) -> str:
    host = f"{to}.default.svc.cluster.local"
    rule: dict[str, Any] = {"route": [{"destination": {"host": host}}]}
    if prefix:
        match["uri"] = {"prefix": prefix}
    if match:
        rule["match"] = [match]
    spec = {"hosts": list(hosts), "gateways": list(gateways), kind: [rule]}
    return yaml.safe_dump(
        {"kind": "VirtualService", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
    )


def sni(chain: dict[str, Any]) -> list[str]:
    return list(chain.get("filter_chain_match", {}).get("server_names", []))


def tcp_cluster(chain: dict[str, Any]) -> str:
    return str(chain["filters"][-1]["typed_config"]["cluster"])


def context(chain: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = chain["transport_socket"]["typed_config"]
    return found


def paths(host: dict[str, Any]) -> list[str]:
    return [r["match"].get("prefix", r["match"].get("path", "")) for r in host.get("routes", [])]


def test_plaintext_servers_of_a_port_share_routes_and_keep_their_hosts_apart(front: Front) -> None:
    front.apply(
        gateway("web", http("a.example.com")),
        gateway("other", http("b.example.com")),
        routes("a", "a.example.com", "b.example.com", gateways=("web",)),
    )
    assert list(front.listeners()) == ["0.0.0.0_8080"]
    hosts = front.hosts("http.8080")
    assert list(hosts) == ["a.example.com"], "b is no host of the gateway the routes are for"


def test_a_host_without_routes_still_opens_the_port(front: Front) -> None:
    front.apply(gateway("web", http("*")))
    assert "0.0.0.0_8080" in front.listeners()
    assert front.hosts("http.8080") == {}


def test_a_gateway_that_does_not_exist_is_named_where_it_is_asked_for(front: Front) -> None:
    front.apply(gateway("web", http("*")), routes("a", "a.org", gateways=("web", "mesh", "wbe")))
    (problem,) = front.problems()
    assert (problem.code, problem.path) == (Code.UNKNOWN_GATEWAY, "spec.gateways[2]")
    front.apply(gateway("wbe", http("*", port=81)))
    assert front.problems() == []


def test_a_table_binds_every_host_it_shares_with_a_server(front: Front) -> None:
    front.apply(
        gateway("web", http("a.example.com", "*.b.example.com", "c.org")),
        routes("all", "*.example.com"),
    )
    assert set(front.hosts("http.8080")) == {"a.example.com", "*.b.example.com"}


@pytest.mark.parametrize(
    ("entry", "bound"),
    [("shop/*", True), ("./*", False), ("*/*", True), ("*", True), ("default/*", False)],
)
def test_hosts_say_whose_routes_may_bind(front: Front, entry: str, bound: bool) -> None:
    front.apply(
        gateway("web", http(entry)),
        routes("shop", "shop.example.com", gateways=("default/web",), namespace="shop"),
    )
    assert ("shop.example.com" in front.hosts("http.8080")) is bound


def test_routes_of_one_host_are_merged_by_age_with_catch_alls_last(front: Front) -> None:
    front.apply(
        gateway("web", http("*")),
        routes("first", "shop.example.com", to="reviews"),
        routes("second", "shop.example.com", to="ratings", prefix="/ratings"),
        routes("third", "shop.example.com", to="ratings", prefix="/more"),
    )
    assert paths(front.hosts("http.8080")["shop.example.com"]) == ["/ratings", "/more", "/"]


def test_https_redirect_needs_no_routes(front: Front) -> None:
    front.apply(gateway("web", http("shop.example.com", redirect=True)))
    host = front.hosts("http.8080")["shop.example.com"]
    assert host["require_tls"] == "ALL"
    assert "routes" not in host


def test_a_service_may_translate_one_port_to_several(front: Front) -> None:
    other = FRONT.replace("name: front", "name: second").replace("8080", "9090")
    front.apply(other, gateway("web", http("*")))
    assert {"0.0.0.0_8080", "0.0.0.0_9090"} <= front.listeners().keys()


def test_bind_addresses_are_listeners_of_their_own(front: Front) -> None:
    front.apply(
        gateway("web", http("a.example.com"), http("b.example.com", bind="10.44.9.9")),
        routes("a", "a.example.com", "b.example.com"),
    )
    assert list(front.listeners()) == ["0.0.0.0_8080", "10.44.9.9_8080"]
    assert list(front.hosts("http.8080")) == ["a.example.com"]
    assert list(front.hosts("http.8080.10.44.9.9")) == ["b.example.com"]


def test_an_unprivileged_gateway_opens_no_port_below_1024(mesh: Mesh) -> None:
    front = Front(mesh)
    node = mesh.proxies.get(front.node)
    assert node is not None
    changed = msgspec.structs.replace(node, metadata={"UNPRIVILEGED_POD": "true"})
    mesh.proxies.set(front.node, changed)
    front.apply(gateway("web", http("*"), http("*", port=81)))
    assert list(front.listeners()) == ["0.0.0.0_8080"]
    (problem,) = front.problems()
    assert (problem.code, problem.path) == (Code.NOT_SUPPORTED, "spec.servers[1].port.number")


def test_https_has_a_chain_and_routes_of_its_own(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway("web", tls("shop.example.com")),
        routes("shop", "shop.example.com"),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["shop.example.com"]
    assert chain["filter_chain_match"]["transport_protocol"] == "tls"
    common = context(chain)["common_tls_context"]
    assert common["alpn_protocols"] == ["h2", "http/1.1"]
    (certificate,) = common["tls_certificate_sds_secret_configs"]
    assert certificate["name"] == "kubernetes://shop"
    assert "sds-grpc" in str(certificate["sds_config"])
    manager = chain["filters"][0]["typed_config"]
    assert manager["rds"]["route_config_name"] == "https.443.https.web.default"
    assert manager["use_remote_address"] is True
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
    assert "shop.example.com" in front.hosts("https.443.https.web.default")
    assert set(front.mesh.resources(front.node, SECRET)) == {
        "kubernetes://shop",
        "kubernetes://istio-system/shop",
    }


def test_requests_for_another_servers_host_are_misdirected(front: Front) -> None:
    """A connection by one name must not reach what another server, with other checks, guards."""
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE, authority=AUTHORITY.pem),
        gateway(
            "web",
            tls("*.example.com", name="open"),
            tls("admin.example.com", mode="MUTUAL", name="guarded"),
        ),
        routes("all", "*.example.com", "admin.example.com"),
    )
    hosts = front.hosts("https.443.open.web.default")
    assert hosts["admin.example.com"]["name"] == "misdirected"
    assert hosts["*"]["routes"][0]["direct_response"]["status"] == 421
    assert paths(hosts["*.example.com"]) == ["/"]
    guarded = front.hosts("https.443.guarded.web.default")
    assert set(guarded) == {"admin.example.com", "*"}


def test_mutual_tls_asks_for_clients_of_the_authority(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        tls_secret("shop-cacert", None, authority=AUTHORITY.pem),
        gateway(
            "web",
            tls(
                "shop.example.com",
                mode="MUTUAL",
                subjectAltNames=["client.example.com"],
                verifyCertificateHash=["a" * 64],
                verifyCertificateSpki=["A" * 43 + "="],
            ),
        ),
    )
    (chain,) = front.chains()
    assert context(chain)["require_client_certificate"] is True
    combined = context(chain)["common_tls_context"]["combined_validation_context"]
    assert combined["validation_context_sds_secret_config"]["name"] == "kubernetes://shop-cacert"
    checked = combined["default_validation_context"]
    assert checked["match_typed_subject_alt_names"][0]["matcher"]["exact"] == "client.example.com"
    assert checked["verify_certificate_hash"] == ["a" * 64]
    assert checked["verify_certificate_spki"] == ["A" * 43 + "="]


def test_an_authority_of_its_own(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        tls_secret("clients", None, authority=AUTHORITY.pem),
        gateway("web", tls("shop.example.com", mode="MUTUAL", caCertCredentialName="clients")),
    )
    (chain,) = front.chains()
    combined = context(chain)["common_tls_context"]["combined_validation_context"]
    name = combined["validation_context_sds_secret_config"]["name"]
    assert name == "kubernetes://clients-cacert"
    assert name in front.mesh.resources(front.node, SECRET)
    front.apply(gateway("web", tls("shop.example.com", mode="MUTUAL")))
    assert [p.code for p in front.problems()] == [Code.UNKNOWN_SECRET]
    assert "no authority" in front.problems()[0].message


def test_optional_mutual_tls_lets_clients_come_without(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE, authority=AUTHORITY.pem),
        gateway("web", tls("shop.example.com", mode="OPTIONAL_MUTUAL")),
    )
    (chain,) = front.chains()
    assert not context(chain).get("require_client_certificate")
    assert "combined_validation_context" in context(chain)["common_tls_context"]
    assert "kubernetes://shop-cacert" in front.mesh.resources(front.node, SECRET)


def test_parameters_of_tls(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway(
            "web",
            tls(
                "a.example.com",
                minProtocolVersion="TLSV1_3",
                cipherSuites=["ECDHE-ECDSA-AES128-GCM-SHA256"],
            ),
            tls("b.example.com", name="other", maxProtocolVersion="TLSV1_2"),
        ),
    )
    first, second = (context(c)["common_tls_context"]["tls_params"] for c in front.chains())
    assert first["tls_minimum_protocol_version"] == "TLSv1_3"
    assert first["cipher_suites"] == ["ECDHE-ECDSA-AES128-GCM-SHA256"]
    assert second["tls_minimum_protocol_version"] == "TLSv1_2"
    assert second["tls_maximum_protocol_version"] == "TLSv1_2"


def test_files_instead_of_secrets(front: Front) -> None:
    pair = {"serverCertificate": "/etc/certs/a.pem", "privateKey": "/etc/certs/a.key"}
    front.apply(
        gateway(
            "web",
            tls("a.example.com", mode="MUTUAL", caCertificates="/etc/certs/ca.pem",
                caCrl="/etc/certs/crl.pem", **pair),
            tls("b.example.com", name="list", tlsCertificates=[pair]),
        )
    )  # fmt: skip
    first, second = (context(c)["common_tls_context"] for c in front.chains())
    for common in (first, second):
        (certificate,) = common["tls_certificate_sds_secret_configs"]
        assert certificate["name"] == "file-cert:/etc/certs/a.pem~/etc/certs/a.key"
    trust = first["combined_validation_context"]["validation_context_sds_secret_config"]
    assert trust["name"] == "file-root:/etc/certs/ca.pem~/etc/certs/crl.pem"


def test_one_certificate_of_each_kind_of_key(front: Front) -> None:
    big = AUTHORITY.sign(
        "shop.example.com", key=rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    front.apply(
        tls_secret("ec", SHOP_CERTIFICATE),
        tls_secret("rsa", big),
        gateway("web", tls("shop.example.com", credentialNames=["ec", "rsa"])),
    )
    (chain,) = front.chains()
    common = context(chain)["common_tls_context"]
    named = [c["name"] for c in common["tls_certificate_sds_secret_configs"]]
    assert named == ["kubernetes://ec", "kubernetes://rsa"]
    front.apply(gateway("web", tls("shop.example.com", credentialNames=["ec", "ec"])))
    assert [p.code for p in front.problems()] == [Code.BAD_VALUE]


def test_a_missing_secret_closes_its_server_and_no_other(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway(
            "web",
            tls("shop.example.com"),
            tls("lost.example.com", name="lost", credentialName="lost"),
        ),
    )
    assert [sni(c) for c in front.chains()] == [["shop.example.com"]]
    (problem,) = front.problems()
    assert problem.code is Code.UNKNOWN_SECRET
    assert problem.path == "spec.servers[1].tls.credentialName"
    assert "istio-system" in problem.message
    front.apply(tls_secret("lost", AUTHORITY.sign("lost.example.com")))
    assert len(front.chains()) == 2
    assert front.problems() == []


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (Signed(SHOP_CERTIFICATE.certificate, AUTHORITY.sign("x").key), "does not belong"),
        (Signed(b"nonsense", SHOP_CERTIFICATE.key), "not PEM"),
        (Signed(SHOP_CERTIFICATE.certificate, b"nonsense"), "unencrypted PEM"),
        (
            AUTHORITY.sign(
                "x", key=rsa.generate_private_key(public_exponent=65537, key_size=1024)
            ),
            "2048",
        ),
    ],
)  # fmt: skip
def test_a_broken_secret_is_reported_where_it_is_used(
    front: Front, secret: Signed, reason: str
) -> None:
    front.apply(tls_secret("shop", secret), gateway("web", http("*"), tls("shop.example.com")))
    assert list(front.listeners()) == ["0.0.0.0_8080"]
    (problem,) = front.problems()
    assert problem.about.kind == "Gateway"
    assert reason in problem.message
    assert "PRIVATE" not in problem.message


def test_a_secret_that_breaks_keeps_what_proxies_have(front: Front) -> None:
    front.apply(tls_secret("shop", SHOP_CERTIFICATE), gateway("web", tls("shop.example.com")))
    before = front.mesh.resources(front.node, SECRET)["kubernetes://shop"].version
    front.apply(tls_secret("shop", Signed(SHOP_CERTIFICATE.certificate, b"nonsense")))
    assert front.mesh.resources(front.node, SECRET)["kubernetes://shop"].version == before
    assert len(front.chains()) == 1


def test_secrets_go_only_to_who_may_read_them_and_only_of_its_namespace(mesh: Mesh) -> None:
    front = Front(mesh, reads_secrets=False)
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        tls_secret("foreign", SHOP_CERTIFICATE, namespace="other"),
        gateway("web", http("*"), tls("shop.example.com")),
    )
    assert list(front.listeners()) == ["0.0.0.0_8080"], "no chain waits for what never comes"
    assert front.mesh.resources(front.node, SECRET) == {}
    (problem,) = front.problems()
    assert "service account" in problem.message
    other = mesh.connect("router", "10.44.9.8", "thief", {"istio": "ingressgateway"}, "other")
    assert mesh.resources(other, SECRET) == {}
    front.grant()
    names = mesh.resources(front.node, SECRET)
    assert "kubernetes://shop" in names
    assert not any("foreign" in name for name in names)
    assert mesh.resources(other, SECRET) == {}
    front.apply(gateway("web", tls("shop.example.com", credentialName="other/foreign")))
    assert any("must be in istio-system" in p.message for p in front.problems())


ORIGINATING = """
kind: DestinationRule
metadata: {name: old}
spec:
  host: reviews
  trafficPolicy:
    portLevelSettings:
    - port: {number: 9080}
      tls: {mode: MUTUAL, credentialName: client}
"""


def test_a_secret_for_tls_that_a_gateway_originates(front: Front) -> None:
    def missing() -> list[Problem]:
        return [p for p in front.problems() if p.code is Code.UNKNOWN_SECRET]

    front.apply(ORIGINATING)
    (problem,) = missing()
    assert problem.path == "spec.trafficPolicy.portLevelSettings[0].tls.credentialName"
    assert "none in namespace istio-system" in problem.message
    front.apply(tls_secret("client", SHOP_CERTIFICATE))
    assert "no authority" in missing()[0].message
    front.apply(tls_secret("client", SHOP_CERTIFICATE, authority=AUTHORITY.pem))
    assert missing() == []
    front.mesh.graph.verify()


def test_a_sidecar_that_proves_nothing_is_sent_no_secret(front: Front) -> None:
    selecting = "workloadSelector: {matchLabels: {app: ratings}}\n  host: reviews"
    front.apply(ORIGINATING.replace("host: reviews", selecting))
    front.apply(tls_secret("client", SHOP_CERTIFICATE, namespace="default"))
    front.mesh.connect("sidecar", "10.44.0.4", "ratings-v1", {"app": "ratings"})
    (problem,) = front.problems()
    assert (problem.code, problem.about.name) == (Code.UNKNOWN_SECRET, "old")
    assert "may not read it" in problem.message


def test_the_mesh_certificate_ends_tls_of_sidecars(front: Front) -> None:
    front.apply(
        gateway("web", tls("shop.example.com", mode="ISTIO_MUTUAL")),
        routes("shop", "shop.example.com"),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["shop.example.com.meltemi"]
    common = context(chain)["common_tls_context"]
    assert common["tls_certificate_sds_secret_configs"][0]["name"] == "default"
    assert context(chain)["require_client_certificate"] is True


def test_passthrough_goes_by_sni(front: Front) -> None:
    front.apply(
        service("secure", "tls:443", ip="10.43.0.8"),
        gateway("web", tls("*.example.com", mode="PASSTHROUGH", protocol="TLS")),
        routes("in", "a.example.com", to="secure", kind="tls", sniHosts=["a.example.com"]),
        routes("out", "b.org", to="secure", kind="tls", sniHosts=["b.org"]),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["a.example.com"]
    assert "transport_socket" not in chain
    assert tcp_cluster(chain) == "outbound|443||secure.default.svc.cluster.local"


def test_two_passthrough_rules_for_one_name(front: Front) -> None:
    front.apply(
        service("secure", "tls:443", ip="10.43.0.8"),
        service("second", "tls:443", ip="10.43.0.9"),
        gateway("web", tls("*", mode="PASSTHROUGH", protocol="TLS")),
        routes("old", "a.example.com", to="secure", kind="tls", sniHosts=["a.example.com"]),
        routes("young", "a.example.com", to="second", kind="tls", sniHosts=["a.example.com"]),
    )
    (chain,) = front.chains()
    assert "secure" in tcp_cluster(chain)
    (problem,) = front.problems()
    assert (problem.code, problem.about.name) == (Code.HOST_CONFLICT, "young")
    assert "VirtualService/old" in problem.message


def test_auto_passthrough_takes_the_cluster_from_the_name(front: Front) -> None:
    name = "outbound_.9080_._.reviews.default.svc.cluster.local"
    assert name not in front.mesh.sees(front.node, CLUSTER)
    front.apply(
        pod("reviews-v3", "reviews", "v3", "10.44.0.9").replace("tlsMode: istio", "tlsMode: none"),
        endpoints("reviews", "http:9080", "reviews-v1=10.44.0.2", "reviews-v3=10.44.0.9"),
        gateway("web", tls("*.local", mode="AUTO_PASSTHROUGH", protocol="TLS")),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["*.local.meltemi"]
    assert "transport_socket" not in chain
    cluster = front.mesh.sees(front.node, CLUSTER)[name]
    assert not cluster.keys() & {"transport_socket", "transport_socket_matches"}
    (group,) = front.mesh.sees(front.node, ENDPOINT)[name]["endpoints"]
    addresses = [
        e["endpoint"]["address"]["socket_address"]["address"] for e in group["lb_endpoints"]
    ]
    assert addresses == ["10.44.0.2"], "only who ends mutual TLS itself"
    front.mesh.drop("Gateway", "web")
    assert name not in front.mesh.sees(front.node, CLUSTER)
    front.mesh.graph.verify()


@pytest.mark.parametrize(
    ("server_name", "cluster"),
    [
        ("outbound_.80_._.a.b.svc.meltemi", "outbound_.80_._.a.b.svc"),
        ("outbound_.80_.v1_.a.b.svc.meltemi", "outbound_.80_.v1_.a.b.svc"),
        ("outbound|80||a.b.svc.meltemi", ""),
        ("outbound_.80_._.a.b.svc", ""),
        ("inbound|80||.meltemi", ""),
    ],
)
def test_a_strangers_name_reaches_no_cluster_of_the_gateways_own(
    server_name: str, cluster: str
) -> None:
    assert names.cluster_of_sni(server_name) == cluster


def test_tcp_goes_by_the_port(front: Front) -> None:
    server = {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]}
    front.apply(gateway("web", server), routes("db", "*", to="db", kind="tcp", port=31400))
    (chain,) = front.chains("0.0.0.0_31400")
    assert tcp_cluster(chain) == "outbound|5432||db.default.svc.cluster.local"
    mongo = server | {"port": {"number": 31400, "name": "tcp", "protocol": "MONGO"}}
    front.apply(gateway("web", mongo))
    (chain,) = front.chains("0.0.0.0_31400")
    assert chain["filters"][0]["name"] == "envoy.filters.network.mongo_proxy"


def test_tcp_inside_tls(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway("web", tls("db.example.com", protocol="TLS")),
        routes("db", "db.example.com", to="db", kind="tcp"),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["db.example.com"]
    assert "alpn_protocols" not in context(chain)["common_tls_context"]
    assert tcp_cluster(chain) == "outbound|5432||db.default.svc.cluster.local"


def test_a_port_speaks_one_way_and_the_oldest_decides(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway("web", tls("shop.example.com")),
        gateway("late", http("*", port=443)),
    )
    assert [sni(c) for c in front.chains()] == [["shop.example.com"]]
    (problem,) = front.problems()
    assert (problem.code, problem.about.name) == (Code.PORT_CONFLICT, "late")
    assert "Gateway/web.default spec.servers[0]" in problem.message


def test_the_same_tls_host_twice(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        gateway("web", tls("shop.example.com")),
        gateway("late", tls("shop.example.com", "more.example.com")),
        gateway("last", tls("fine.example.com")),
    )
    assert [sni(c) for c in front.chains()] == [["shop.example.com"], ["fine.example.com"]]
    (problem,) = front.problems()
    assert (problem.code, problem.about.name) == (Code.HOST_CONFLICT, "late")


def test_every_protocol_of_plaintext_http(front: Front) -> None:
    servers = [
        {"port": {"number": 7000 + i, "name": p.lower(), "protocol": p}, "hosts": ["*"]}
        for i, p in enumerate(("HTTP", "HTTP2", "GRPC", "GRPC-WEB"))
    ]
    front.apply(gateway("web", *servers))
    assert list(front.listeners()) == [f"0.0.0.0_700{i}" for i in range(4)]


def test_what_stands_before_a_gateway(front: Front, tmp_path: Path) -> None:
    node = front.mesh.proxies.get(front.node)
    assert node is not None
    topology = {
        "numTrustedProxies": 2.0,
        "forwardClientCertDetails": "APPEND_FORWARD",
        "proxyProtocol": {},
    }
    metadata = {"PROXY_CONFIG": {"gatewayTopology": topology}}
    front.mesh.proxies.set(front.node, msgspec.structs.replace(node, metadata=metadata))
    front.apply(gateway("web", http("*")))
    listener = front.listeners()["0.0.0.0_8080"]
    assert listener["listener_filters"][0]["name"] == "envoy.filters.listener.proxy_protocol"
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["xff_num_trusted_hops"] == 2
    assert manager["forward_client_cert_details"] == "APPEND_FORWARD"
    accepted(front.mesh.protos, static_bootstrap(front.mesh, front.node), tmp_path)


def test_grpc_web_is_translated(front: Front) -> None:
    web = {"port": {"number": 80, "name": "web", "protocol": "GRPC-WEB"}, "hosts": ["a.org"]}
    front.apply(gateway("web", web, http("b.org"), http("*", port=81)))
    filters = {
        name: [
            f["name"]
            for f in found["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        ]
        for name, found in front.listeners().items()
    }
    assert filters["0.0.0.0_8080"][0] == "envoy.filters.http.grpc_web"
    assert "envoy.filters.http.grpc_web" not in filters["0.0.0.0_81"]


def test_a_change_of_routes_for_the_mesh_leaves_gateways_alone(front: Front) -> None:
    front.apply(gateway("web", http("*")), routes("shop", "shop.example.com"))
    runs = front.mesh.compiled.sealed.gateways.runs  # type: ignore[attr-defined]
    front.apply(routes("mesh", "greeter", gateways=("mesh",), to="greeter"))
    assert front.mesh.compiled.sealed.gateways.runs == runs  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate, its key and its authority as files, by the field that names them."""
    directory = tmp_path_factory.mktemp("certificates")
    parts = {
        "serverCertificate": SHOP_CERTIFICATE.certificate,
        "privateKey": SHOP_CERTIFICATE.key,
        "caCertificates": AUTHORITY.pem,
    }
    for name, pem in parts.items():
        (directory / name).write_bytes(pem)
    return {name: str(directory / name) for name in parts}


def random_server(random: Random, number: int, files: dict[str, str]) -> dict[str, Any]:
    """Any server that validation accepts."""
    hosts = random.sample(["*", "a.org", "*.a.org", "./b.org", "*/*.c.org", "d.a.org"], 2)
    protocol = random.choice(["HTTP", "HTTP2", "GRPC", "TCP", "MONGO", "HTTPS", "TLS"])
    port = {
        "number": random.choice([80, 443, 31400, 9000]),
        "name": f"port-{number}",
        "protocol": protocol,
    }
    found: dict[str, Any] = {"port": port, "hosts": hosts}
    if random.random() < 0.2:
        found["bind"] = "10.44.9.9"
    if protocol in ("HTTPS", "TLS"):
        mode = random.choice(
            ["SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL", "PASSTHROUGH",
             "AUTO_PASSTHROUGH"]
        )  # fmt: skip
        found["tls"] = {"mode": mode}
        if mode in ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"):
            found["tls"] |= files | {"minProtocolVersion": random.choice(["TLSV1_2", "TLSV1_3"])}
            if mode != "SIMPLE":
                found["tls"]["subjectAltNames"] = ["client.example.com"]
    elif protocol == "HTTP" and random.random() < 0.5:
        found["tls"] = {"httpsRedirect": True}
    return found


@pytest.mark.parametrize("seed", range(4))
def test_envoy_accepts_whatever_validation_accepts(
    front: Front, tmp_path: Path, files: dict[str, str], seed: int
) -> None:
    random = Random(seed)
    gateways = [
        gateway(f"g{i}", *(random_server(random, n, files) for n in range(4))) for i in range(15)
    ]
    names = tuple(f"g{i}" for i in range(15))
    tables = []
    for i, host in enumerate(("*", "a.org", "*.a.org", "b.org", "x.c.org")):
        tables.append(routes(f"http-{i}", host, gateways=names))
        tables.append(routes(f"tcp-{i}", host, gateways=names, kind="tcp", to="db"))
        tables.append(
            routes(f"tls-{i}", host, gateways=names, kind="tls", to="db", sniHosts=[host])
        )
    front.apply(*gateways, *tables)
    wrong = {p.code for p in front.problems()} - {
        Code.PORT_CONFLICT, Code.HOST_CONFLICT, Code.UNKNOWN_PORT,
    }  # fmt: skip
    assert not wrong
    assert len(front.listeners()) >= 4
    accepted(front.mesh.protos, static_bootstrap(front.mesh, front.node), tmp_path)
    front.mesh.graph.verify()


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_events_ends_where_a_fresh_start_would(
    front: Front, files: dict[str, str], seed: int
) -> None:
    """Gateways, routes, Secrets and rights come and go; `verify` builds everything anew."""
    random = Random(seed)
    node = front.mesh.proxies.get(front.node)
    assert node is not None
    for step in range(40):
        name = f"n{random.randrange(4)}"
        match random.randrange(6):
            case 0:
                servers = (random_server(random, n, files) for n in range(2))
                front.apply(gateway(name, *servers, tls("shop.example.com", name="own")))
            case 1:
                front.mesh.drop("Gateway", name)
            case 2:
                named = tuple(f"n{i}" for i in range(random.randrange(1, 4)))
                kind = random.choice(["http", "tcp"])
                front.apply(routes(name, random.choice(["*", "a.org"]), gateways=named, kind=kind))
            case 3:
                front.mesh.drop("VirtualService", name)
            case 4:
                broken = Signed(SHOP_CERTIFICATE.certificate, b"nonsense")
                front.apply(tls_secret("shop", random.choice([SHOP_CERTIFICATE, broken])))
            case 5:
                may = msgspec.structs.replace(node, reads_secrets=random.random() < 0.5)
                front.mesh.proxies.set(front.node, may)
                front.mesh.propagate()
        if step % 10 == 9:
            front.mesh.graph.verify()
            assert front.listeners() is not None


def test_envoy_accepts_every_kind_of_server(front: Front, tmp_path: Path) -> None:
    front.apply(
        service("secure", "tls:443", ip="10.43.0.8"),
        tls_secret("shop", SHOP_CERTIFICATE, authority=AUTHORITY.pem),
        gateway(
            "web",
            http("*", redirect=True),
            tls("simple.example.com", name="simple"),
            tls("mutual.example.com", mode="MUTUAL", name="mutual"),
            tls("mesh.example.com", mode="ISTIO_MUTUAL", name="mesh"),
            tls("*.pass.org", mode="PASSTHROUGH", protocol="TLS", name="pass"),
            tls("*.local", mode="AUTO_PASSTHROUGH", protocol="TLS", name="auto"),
            {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
            {"port": {"number": 27017, "name": "mongo", "protocol": "MONGO"}, "hosts": ["*"]},
        ),
        routes("http", "*"),
        routes("tls", "a.pass.org", to="secure", kind="tls", sniHosts=["a.pass.org"]),
        routes("tcp", "*", to="db", kind="tcp"),
    )
    assert len(front.chains()) == 5
    assert {"0.0.0.0_31400", "0.0.0.0_27017"} <= front.listeners().keys()
    accepted(front.mesh.protos, static_bootstrap(front.mesh, front.node), tmp_path)
    assert front.mesh.sees(front.node, CLUSTER)
    front.mesh.graph.verify()
