"""Envoy names that the outside relies on (mesh-semantics 1.9), made and parsed in one place."""

import re
from typing import NamedTuple

VIRTUAL_OUTBOUND = "virtualOutbound"
VIRTUAL_INBOUND = "virtualInbound"
PASSTHROUGH = "PassthroughCluster"
BLACK_HOLE = "BlackHoleCluster"
DYNAMIC_OUTSIDE = "AllowAnyDynamicDNSCluster"
"""Where requests for unknown hosts go when the proxy itself resolves them."""
LOCAL_CLUSTER = "local_cluster"
"""A proxy's own peers, by which Envoy knows the share of traffic that comes from its zone."""
INBOUND_PASSTHROUGH = "InboundPassthroughCluster"
ALLOW_ANY = "allow_any"
BLOCK_ALL = "block_all"

OUTBOUND_PORT = 15001
INBOUND_PORT = 15006

MESH_SNI = ".meltemi"
"""Marks mesh traffic: server chains match on it, so no upstream ALPN is needed, which would take
the choice of HTTP version from Envoy (envoy-data-plane, pitfall 11). A suffix, because a filter
chain matches server names exactly or by suffix."""


MESH_TCP = "istio"
"""The ALPN that tells a sniffing server inside mutual TLS that the bytes are not HTTP."""

AUTHORITY_SUFFIX = "-cacert"
_SECRET = "kubernetes://"


def cluster_of_sni(sni: str) -> str:
    """The cluster that a server name leads to at an east-west gateway; empty: none."""
    found = re.match(SNI_CLUSTER, sni)
    return found.group(1) if found else ""


class Cluster(NamedTuple):
    """The parts of `outbound|9080|v1|reviews.default.svc.cluster.local`."""

    direction: str
    port: int
    subset: str
    host: str


def outbound(port: int, subset: str, host: str) -> str:
    return f"outbound|{port}|{subset}|{host}"


def inbound(port: int) -> str:
    return f"inbound|{port}||"


def parse(name: str) -> Cluster | None:
    """The parts of a cluster's name; None for clusters without a service."""
    parts = name.split("|")
    if len(parts) != 4 or not parts[1].isdecimal():
        return None
    return Cluster(parts[0], int(parts[1]), parts[2], parts[3])


def stat_name(
    pattern: str, *, host: str, port: int, port_name: str, subset: str = "", target: str = ""
) -> str:
    """A cluster's name in Envoy's statistics by MeshConfig's pattern; empty without one."""
    words = {
        "%SERVICE%": host.partition(".svc.")[0],
        "%SERVICE_FQDN%": host,
        "%SERVICE_PORT%": str(port),
        "%SERVICE_PORT_NAME%": port_name,
        "%SUBSET_NAME%": subset,
        "%TARGET_PORT%": target,
    }
    for word, value in words.items():
        pattern = pattern.replace(word, value)
    return pattern


def sni(port: int, subset: str, host: str) -> str:
    """The server name of mesh traffic: Istio's form and our marker."""
    return f"{sni_cluster(port, subset, host)}{MESH_SNI}"


def sni_cluster(port: int, subset: str, host: str) -> str:
    """The cluster an east-west gateway finds by the server name of mesh traffic."""
    return f"outbound_.{port}_.{subset}_.{host}"


SNI_CLUSTER = rf"^(outbound_\.[0-9]+_\.[-a-z0-9_]*_\.[-a-z0-9_.]+)\{MESH_SNI}$"
"""RE2 for the server name of mesh traffic; the first group is the cluster. Nothing else may be
reached by a name that a stranger sends: never the gateway's own, authenticated clusters."""


def wildcard_listener(port: int) -> str:
    return f"0.0.0.0_{port}"


def address_listener(address: str, port: int) -> str:
    return f"{address}_{port}"


def opened_listener(address: str, port: int) -> str:
    """A sidecar's listener with a socket of its own. Envoy 1.40 crashes when an update gives a
    socket to a listener that is only handed connections, so for any address, where both may stand
    in turn, they never share a name."""
    name = address_listener(address, port)
    return f"{name}_opened" if address in _ANY else name


_ANY = ("0.0.0.0", "::")


def gateway_route(port: int, bind: str = "") -> str:
    """Of all plaintext servers on a port of the pod, at one address."""
    return f"http.{port}.{bind}" if bind else f"http.{port}"


def gateway_tls_route(port: int, port_name: str, gateway: str, namespace: str) -> str:
    return f"https.{port}.{port_name}.{gateway}.{namespace}"


def secret(name: str) -> str:
    """A Secret's certificate and key, in SDS; the namespace is the proxy's own."""
    return f"{_SECRET}{name}"


def secret_authority(name: str) -> str:
    """The CA that a Secret holds, or the Secret beside it with this suffix."""
    return f"{_SECRET}{name}{AUTHORITY_SUFFIX}"


def virtual_host(host: str, port: int) -> str:
    return f"{host}:{port}"


def file_certificate(chain: str, key: str) -> str:
    """The secret of two files in the proxy, which the agent names to Envoy."""
    return f"file-cert:{chain}~{key}"


def file_authority(path: str, revoked: str = "") -> str:
    """The secret of an authority's file (empty: the system's), and of a list of what it revoked."""
    return f"file-root:{path or 'system'}" + (f"~{revoked}" if revoked else "")
