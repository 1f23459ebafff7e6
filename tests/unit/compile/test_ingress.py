"""Kubernetes Ingress: which paths lead where, and whose objects win."""

from typing import Any

import pytest
import yaml
from tests.certificates import tls_secret

from meltemi.base.problems import Code

from .test_gateways import SHOP_CERTIFICATE, Front, front, gateway, http, routes, sni

__all__ = ["front"]

Path = tuple[str, str, str]
"""(type, path, `service:port`)."""


def ingress(
    name: str,
    *rules: tuple[str, list[Path]],
    default: str = "",
    tls: list[dict[str, Any]] | None = None,
    class_name: str | None = "istio",
    annotated: str = "",
) -> str:
    spec: dict[str, Any] = {"rules": [_rule(host, paths) for host, paths in rules]}
    if default:
        spec["defaultBackend"] = _backend(default)
    if tls:
        spec["tls"] = tls
    if class_name is not None:
        spec["ingressClassName"] = class_name
    meta: dict[str, Any] = {"name": name, "namespace": "default"}
    if annotated:
        meta["annotations"] = {"kubernetes.io/ingress.class": annotated}
    return yaml.safe_dump({"kind": "Ingress", "metadata": meta, "spec": spec})


def _rule(host: str, paths: list[Path]) -> dict[str, Any]:
    items = [{"pathType": t, "path": p, "backend": _backend(to)} for t, p, to in paths]
    found: dict[str, Any] = {"http": {"paths": items}}
    return found | ({"host": host} if host else {})


def _backend(to: str) -> dict[str, Any]:
    name, _, port = to.partition(":")
    where = {"number": int(port)} if port.isdecimal() else {"name": port}
    return {"service": {"name": name, "port": where}}


def led(front: Front, host: str, name: str = "http.8080") -> list[tuple[str, str]]:
    """(path or prefix*, service) of each route of a host, in order."""
    found = []
    for route in front.hosts(name)[host]["routes"]:
        match = route["match"]
        path = match.get("path") or f"{match['prefix']}*"
        cluster = route.get("route", {}).get("cluster", "")
        found.append((path, cluster.split("|")[-1].split(".")[0] or "503"))
    return found


def test_path_types(front: Front) -> None:
    paths: list[Path] = [
        ("Exact", "/one", "reviews:9080"),
        ("Prefix", "/two/", "reviews:9080"),
        ("ImplementationSpecific", "/three/*", "ratings:9080"),
        ("ImplementationSpecific", "/four", "ratings:9080"),
        ("Prefix", "/", "ratings:9080"),
    ]
    front.apply(ingress("shop", ("shop.example.com", paths)))
    assert led(front, "shop.example.com") == [
        ("/three/*", "ratings"),
        ("/four", "ratings"),
        ("/one", "reviews"),
        ("/two", "reviews"),
        ("/two/*", "reviews"),
        ("/*", "ratings"),
    ]
    assert front.problems() == []


def test_the_longest_path_wins_across_objects_then_the_exact_then_the_oldest(front: Front) -> None:
    front.apply(
        ingress("old", ("a.org", [("Prefix", "/", "reviews:9080"), ("Prefix", "/x", "odd:7000")])),
        ingress(
            "young",
            ("a.org", [("Prefix", "/x/y", "ratings:9080"), ("Exact", "/x", "ratings:9080")]),
        ),
        ingress("last", ("a.org", [("Prefix", "/x/y", "reviews:9080")])),
    )
    assert led(front, "a.org") == [
        ("/x/y", "ratings"),
        ("/x/y/*", "ratings"),
        ("/x", "ratings"),
        ("/x", "odd"),
        ("/x/*", "odd"),
        ("/*", "reviews"),
    ]
    (problem,) = front.problems()
    assert (problem.code, problem.about.name) == (Code.UNREACHABLE_ROUTE, "last")
    assert problem.path == "spec.rules[0].http.paths[0].path"


def test_the_default_backend_takes_what_no_path_takes(front: Front) -> None:
    front.apply(ingress("shop", ("a.org", [("Exact", "/x", "reviews:9080")]), default="odd:7000"))
    assert led(front, "a.org") == [("/x", "reviews"), ("/*", "odd")]
    assert led(front, "*") == [("/*", "odd")]


def test_ports_by_name(front: Front) -> None:
    paths: list[Path] = [("Prefix", "/", "reviews:http"), ("Exact", "/bad", "reviews:nope")]
    front.apply(ingress("shop", ("a.org", paths)))
    assert led(front, "a.org") == [("/bad", "503"), ("/*", "reviews")]
    (problem,) = front.problems()
    assert (problem.code, problem.path) == (
        Code.UNKNOWN_PORT,
        "spec.rules[0].http.paths[1].backend.service.port.name",
    )


@pytest.mark.parametrize(
    ("mode", "class_name", "annotated", "served"),
    [
        ("STRICT", "istio", "", True),
        ("STRICT", "mesh", "", True),
        ("STRICT", "nginx", "", False),
        ("STRICT", None, "istio", True),
        ("STRICT", None, "nginx", False),
        ("STRICT", None, "", False),
        ("DEFAULT", None, "", True),
        ("DEFAULT", "nginx", "", False),
        ("OFF", "istio", "", False),
    ],
)
def test_only_ingresses_of_our_class(
    front: Front, mode: str, class_name: str | None, annotated: str, served: bool
) -> None:
    front.apply(
        mesh_config(f"ingressControllerMode: {mode}"),
        yaml.safe_dump(
            {
                "kind": "IngressClass",
                "metadata": {"name": "mesh", "namespace": ""},
                "spec": {"controller": "istio.io/ingress-controller"},
            }
        ),
        ingress(
            "shop",
            ("", [("Prefix", "/", "reviews:9080")]),
            class_name=class_name,
            annotated=annotated,
        ),
    )
    assert ("0.0.0.0_8080" in front.listeners()) is served


def mesh_config(text: str) -> str:
    meta = {"name": "istio", "namespace": "istio-system"}
    return yaml.safe_dump({"kind": "ConfigMap", "metadata": meta, "data": {"mesh": text}})


def test_mesh_config_names_the_class_and_the_gateway(front: Front) -> None:
    rule = ("a.org", [("Prefix", "/", "reviews:9080")])
    front.apply(mesh_config("ingressClass: edge"), ingress("shop", rule, class_name="edge"))  # type: ignore[arg-type]
    assert "a.org" in front.hosts("http.8080")
    front.apply(mesh_config("ingressClass: edge\ningressSelector: other"))
    assert front.listeners() == {}


def test_tls_serves_the_same_routes_on_443(front: Front) -> None:
    front.apply(
        tls_secret("shop", SHOP_CERTIFICATE),
        ingress(
            "shop",
            ("shop.example.com", [("Prefix", "/", "reviews:9080")]),
            tls=[{"hosts": ["shop.example.com"], "secretName": "shop"}, {"hosts": ["b.org"]}],
        ),
    )
    (chain,) = front.chains()
    assert sni(chain) == ["shop.example.com"]
    name = "https.443.https-443-ingress-shop-default-0.shop.default"
    assert led(front, "shop.example.com", name) == [("/*", "reviews")]
    (problem,) = front.problems()
    assert (problem.code, problem.path) == (Code.MISSING_FIELD, "spec.tls[1].secretName")


def test_resource_backends_are_not_supported(front: Front) -> None:
    resource = {"apiGroup": "k8s.example.com", "kind": "Bucket", "name": "icons"}
    spec = {"ingressClassName": "istio", "defaultBackend": {"resource": resource}}
    front.apply(yaml.safe_dump({"kind": "Ingress", "metadata": {"name": "shop"}, "spec": spec}))
    assert led(front, "*") == [("/*", "503")]
    (problem,) = front.problems()
    assert (problem.code, problem.path) == (Code.NOT_SUPPORTED, "spec.defaultBackend.resource")


def test_a_gateway_and_an_ingress_share_a_port_and_no_routes(front: Front) -> None:
    """A VirtualService cannot name the gateway of Ingress objects, nor they a Gateway's hosts."""
    front.apply(
        ingress("web", ("a.org", [("Prefix", "/", "reviews:9080")])),
        gateway("web", http("b.org")),
        routes("b", "*", gateways=("web",)),
        routes("sly", "*", gateways=("kubernetes-ingress",), to="odd"),
    )
    assert led(front, "a.org") == [("/*", "reviews")]
    assert led(front, "b.org") == [("/*", "reviews")]
    assert set(front.hosts("http.8080")) == {"a.org", "b.org"}
    front.mesh.graph.verify()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "spec"),
        ({"defaultBackend": {}}, "spec.defaultBackend"),
        ({"defaultBackend": {"service": {"name": "a"}}}, "spec.defaultBackend.service.port"),
        ({"rules": [{"host": "*.*.org"}]}, "spec.rules[0].host"),
        (
            {"rules": [{"http": {"paths": [
                {"pathType": "Exact", "path": "x", "backend": {"resource": {"kind": "B"}}}]}}]},
            "spec.rules[0].http.paths[0].path",
        ),
    ],
)  # fmt: skip
def test_what_an_ingress_may_not_say(front: Front, spec: dict[str, Any], path: str) -> None:
    front.apply(yaml.safe_dump({"kind": "Ingress", "metadata": {"name": "bad"}, "spec": spec}))
    assert [(p.code, p.path) for p in front.problems()] == [(Code.BAD_VALUE, path)]
