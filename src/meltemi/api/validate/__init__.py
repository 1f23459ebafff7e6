"""Istio's own rules on one object: what it may say, whatever else the mesh holds.

A Problem of severity ERROR refuses the object; warnings let it pass. One module a kind; `words`
holds what they share.
"""

from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.envoy_filter import EnvoyFilter
from meltemi.api.ingress import Ingress, IngressClass
from meltemi.api.meta import Object
from meltemi.api.proxy_config import ProxyConfig
from meltemi.api.security import PeerAuthentication
from meltemi.api.service_entry import ServiceEntry
from meltemi.api.sidecar import Sidecar
from meltemi.api.validate.destination_rule import destination_rule
from meltemi.api.validate.envoy_filter import envoy_filter, patch_findings
from meltemi.api.validate.gateway import gateway, gateway_ignored
from meltemi.api.validate.ingress import ingress, ingress_class_ignored
from meltemi.api.validate.peer_authentication import peer_authentication
from meltemi.api.validate.proxy_config import proxy_config
from meltemi.api.validate.service_entry import service_entry, service_entry_ignored
from meltemi.api.validate.sidecar import sidecar, sidecar_ignored
from meltemi.api.validate.virtual_service import virtual_service
from meltemi.api.validate.words import Advice, Finding
from meltemi.api.validate.workload_entry import (
    group_ignored,
    workload_entry,
    workload_group,
)
from meltemi.api.workload_entry import WorkloadEntry, WorkloadGroup
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Problem, Severity

__all__ = ["validate"]


def validate(obj: Object) -> tuple[Problem, ...]:
    """All that is wrong with one object; empty for kinds without rules."""
    match obj:
        case net.VirtualService():
            findings = virtual_service(obj.spec)
        case net.DestinationRule():
            findings = destination_rule(obj.spec)
        case net.Gateway():
            findings = gateway(obj.spec)
        case Ingress():
            findings = ingress(obj.spec)
        case PeerAuthentication():
            findings = peer_authentication(obj)
        case ServiceEntry():
            findings = service_entry(obj.spec)
        case WorkloadEntry():
            findings = workload_entry(obj.spec, "spec")
        case WorkloadGroup():
            findings = workload_group(obj.spec)
        case Sidecar():
            findings = sidecar(obj.spec)
        case ProxyConfig():
            findings = proxy_config(obj.spec)
        case EnvoyFilter():
            findings = envoy_filter(obj.spec)
        case IngressClass():
            findings = iter(())
        case _:
            return ()
    return (
        *(_problem(obj.key, finding) for finding in findings),
        *(_problem(obj.key, Advice(*finding)) for finding in ignored(obj)),
    )


def ignored(obj: Object) -> Iterator[Finding]:
    """Fields that are accepted, as Istio accepts them, and that nothing here follows."""
    match obj:
        case net.Gateway():
            yield from gateway_ignored(obj.spec)
        case IngressClass():
            yield from ingress_class_ignored(obj.spec)
        case EnvoyFilter():
            for i, patch in enumerate(obj.spec.config_patches):
                for path, message in patch_findings(patch):
                    yield Advice(f"spec.configPatches[{i}].{path}", message, Code.BAD_VALUE)
        case Sidecar():
            yield from sidecar_ignored(obj.spec)
        case ServiceEntry():
            yield from service_entry_ignored(obj.spec)
        case WorkloadGroup():
            yield from group_ignored(obj.spec)


def _problem(about: ObjectKey, finding: Finding) -> Problem:
    if isinstance(finding, Advice):
        return Problem(finding.code, finding.severity, about, finding.path, finding.message)
    path, message = finding
    return Problem(Code.BAD_VALUE, Severity.ERROR, about, path, message)
