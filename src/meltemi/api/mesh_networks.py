"""meshNetworks: which addresses are of which network, and the gateways between networks.

From the key `meshNetworks` of the ConfigMap `istio` (Istio's shape). YAML that no API server has
checked: reading it answers problems that name the field.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from meltemi.api.decode import convert
from meltemi.api.meta import Api
from meltemi.base.keys import ObjectKey
from meltemi.base.problems import Code, Outcome, Problem, Severity

DATA_KEY = "meshNetworks"
GATEWAY_PORT = 15443
"""Where gateways between networks take mutual TLS, unless they say otherwise."""
_PATH = f"data.{DATA_KEY}"
_LONGEST = 256 * 1024


class NetworkEndpoints(Api, frozen=True):
    """What is of the network: one of the two."""

    from_cidr: str = ""
    from_registry: str = ""


class NetworkGateway(Api, frozen=True):
    """A way into the network: by its address, or by the Service it stands behind."""

    address: str = ""
    registry_service_name: str = ""
    port: int = GATEWAY_PORT
    locality: str = ""


class Network(Api, frozen=True):
    endpoints: tuple[NetworkEndpoints, ...] = ()
    gateways: tuple[NetworkGateway, ...] = ()


class MeshNetworks(Api, frozen=True):
    networks: Mapping[str, Network] = {}


def mesh_networks(text: str, about: ObjectKey) -> Outcome[MeshNetworks]:
    """Read the YAML of a ConfigMap. No value where the last good one must stay."""
    data, reason = _loaded(text)
    if reason:
        problem = Problem(Code.WRONG_TYPE, Severity.ERROR, about, _PATH, reason)
        return Outcome(None, (problem,))
    outcome = convert(MeshNetworks, data, about, _PATH)
    if outcome.value is None:
        return outcome
    wrong = tuple(
        Problem(Code.BAD_VALUE, Severity.ERROR, about, f"{_PATH}.{path}", message)
        for path, message in _findings(outcome.value)
    )
    return Outcome(None, wrong) if wrong else outcome


def _loaded(text: str) -> tuple[dict[str, Any], str]:
    if len(text) > _LONGEST:
        return {}, f"longer than {_LONGEST // 1024} KiB"
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return {}, "YAML aliases are not read here: write the value out"
        data = yaml.safe_load(text) if text else {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        return {}, f"not YAML: {' '.join(str(error).split())}"
    return (data or {}, "") if isinstance(data or {}, dict) else ({}, "expected a mapping")


def _findings(found: MeshNetworks) -> Iterator[tuple[str, str]]:
    for name, network in found.networks.items():
        path = f"networks.{name}"
        for i, part in enumerate(network.endpoints):
            if bool(part.from_cidr) == bool(part.from_registry):
                yield f"{path}.endpoints[{i}]", "either fromCidr or fromRegistry is needed"
            elif part.from_cidr and not _is_range(part.from_cidr):
                yield f"{path}.endpoints[{i}].fromCidr", f"{part.from_cidr[:80]!r} is not a CIDR"
        for i, gateway in enumerate(network.gateways):
            where = f"{path}.gateways[{i}]"
            if bool(gateway.address) == bool(gateway.registry_service_name):
                yield where, "either address or registryServiceName is needed"
            elif gateway.address and not _is_range(gateway.address):
                yield f"{where}.address", "an IP address is needed: names are not resolved here"
            if not 0 < gateway.port < 65536:
                yield f"{where}.port", "a port is between 1 and 65535"


def _is_range(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
