"""What an Ingress may say; the API server of a cluster checks the same."""

import re
from collections.abc import Iterator

from meltemi.api import ingress as api
from meltemi.api.validate.words import LABEL, Finding

_TYPES = ("Exact", "Prefix", "ImplementationSpecific")
_HOST = re.compile(rf"(?:\*\.)?{LABEL}(?:\.{LABEL})*")


def ingress(spec: api.IngressSpec) -> Iterator[Finding]:
    if not spec.rules and spec.default_backend is None:
        yield "spec", "it leads nowhere: give it rules or a defaultBackend"
    if spec.default_backend is not None:
        yield from _backend(spec.default_backend, "spec.defaultBackend")
    for i, rule in enumerate(spec.rules):
        path = f"spec.rules[{i}]"
        if rule.host:
            yield from _host(rule.host, f"{path}.host")
        for j, item in enumerate(rule.http.paths if rule.http else ()):
            yield from _path(item, f"{path}.http.paths[{j}]")
    for i, tls in enumerate(spec.tls):
        for j, host in enumerate(tls.hosts):
            yield from _host(host, f"spec.tls[{i}].hosts[{j}]")


def ingress_class_ignored(spec: api.IngressClassSpec) -> Iterator[Finding]:
    if spec.parameters is not None:
        yield "spec.parameters", "they have no effect: MeshConfig says what the mesh needs to know"


def _host(host: str, path: str) -> Iterator[Finding]:
    if len(host) > 253 or not _HOST.fullmatch(host):
        yield path, f"{host[:80]!r} is not a DNS name; a wildcard may only be its first label"


def _path(item: api.HTTPIngressPath, path: str) -> Iterator[Finding]:
    if item.path_type not in _TYPES:
        yield f"{path}.pathType", f"must be one of {', '.join(_TYPES)}"
    elif item.path_type != "ImplementationSpecific" and not item.path.startswith("/"):
        yield f"{path}.path", "must begin with /"
    yield from _backend(item.backend, f"{path}.backend")


def _backend(backend: api.IngressBackend, path: str) -> Iterator[Finding]:
    service = backend.service
    if (service is None) == (backend.resource is None):
        yield path, "exactly one of service and resource is needed"
    if service is not None:
        if not service.name:
            yield f"{path}.service.name", "a backend needs the name of a Service"
        if bool(service.port.name) == bool(service.port.number):
            yield f"{path}.service.port", "exactly one of name and number is needed"
