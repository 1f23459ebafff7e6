"""What an Envoy says of itself, as rows for people: the columns that istioctl users know. Pure.

Each function takes one resource in the form of Envoy's own JSON, and gives its rows; every row
fills the same columns.
"""

import base64
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
Row = dict[str, str]
_MOST_DOMAINS = 2
_NETWORK = "type.googleapis.com/envoy.extensions.filters.network"


def clusters(item: Json) -> Iterator[Row]:
    direction, port, subset, host = _parts(item["name"])
    kind = item.get("type") or item.get("cluster_type", {}).get("name", "STATIC")
    yield {
        "SERVICE FQDN": host,
        "PORT": port,
        "SUBSET": subset,
        "DIRECTION": direction,
        "TYPE": str(kind).rpartition(".")[2],
    }


def _parts(name: str) -> tuple[str, str, str, str]:
    """Direction, port, subset and host of Istio's name of a cluster; `-` for what it lacks."""
    parts = name.split("|")
    if len(parts) != 4:
        return "-", "-", "-", name
    direction, port, subset, host = (part or "-" for part in parts)
    return direction, port, subset, host


def listeners(item: Json) -> Iterator[Row]:
    """One row for each filter chain: what it takes, and where that goes."""
    addresses = [item.get("address", {})]
    addresses += [more.get("address", {}) for more in item.get("additional_addresses", ())]
    places = [_place(address) for address in addresses]
    port = places[0].rpartition(":")[2] if "://" not in places[0] else "-"
    chains = list(item.get("filter_chains", ()))
    if "default_filter_chain" in item:
        chains.append({**item["default_filter_chain"], "filter_chain_match": {}})
    for chain in chains:
        yield {
            "NAME": item.get("name", "-"),
            "ADDRESS": ", ".join(place.rpartition(":")[0] or place for place in places),
            "PORT": port,
            "MATCH": _chain_match(chain.get("filter_chain_match") or {}),
            "DESTINATION": _chain_destination(chain),
        }


def _chain_match(match: Json) -> str:
    ranges = [
        f"{r['address_prefix']}/{r.get('prefix_len', 0)}" for r in match.get("prefix_ranges", ())
    ]
    words = [
        *([match["transport_protocol"]] if "transport_protocol" in match else []),
        *([f"sni {', '.join(match['server_names'])}"] if "server_names" in match else []),
        *(
            [f"alpn {', '.join(match['application_protocols'])}"]
            if "application_protocols" in match
            else []
        ),
        *([f"to {', '.join(ranges)}"] if ranges else []),
        *([f"port {match['destination_port']}"] if "destination_port" in match else []),
    ]
    return "; ".join(words) or "ALL"


def _chain_destination(chain: Json) -> str:
    for one in chain.get("filters", ()):
        config = one.get("typed_config", {})
        match config.get("@type", "").removeprefix(_NETWORK):
            case ".http_connection_manager.v3.HttpConnectionManager":
                if "rds" in config:
                    return f"route {config['rds'].get('route_config_name', '-')}"
                hosts = config.get("route_config", {}).get("virtual_hosts", ())
                targets = {_target(route) for host in hosts for route in host.get("routes", ())}
                return f"inline route to {', '.join(sorted(targets)) or '-'}"
            case ".tcp_proxy.v3.TcpProxy":
                return f"cluster {_cluster_of(config)}"
    return "-"


def routes(item: Json) -> Iterator[Row]:
    """One row for each route."""
    for host in item.get("virtual_hosts", ()):
        for route in host.get("routes", ()):
            yield {
                "NAME": item.get("name", "-"),
                "VIRTUAL HOST": host["name"],
                "DOMAINS": _domains(host.get("domains", ())),
                "MATCH": _route_match(route.get("match", {})),
                "TARGET": _target(route),
            }


def _domains(domains: Sequence[str]) -> str:
    names = sorted(domains, key=len)
    rest = len(names) - _MOST_DOMAINS
    shown = ", ".join(names[:_MOST_DOMAINS])
    return f"{shown} + {rest} more" if rest > 0 else shown


def _route_match(match: Json) -> str:
    """`/a*` is a prefix, `/a/` with an asterisk a prefix of whole elements, `~` an expression."""
    path = "*"
    if "path" in match:
        path = match["path"]
    elif "prefix" in match:
        path = f"{match['prefix']}*"
    elif "path_separated_prefix" in match:
        path = f"{match['path_separated_prefix']}[/*]"
    elif "safe_regex" in match:
        path = f"~{match['safe_regex'].get('regex', '')}"
    elif "connect_matcher" in match:
        path = "CONNECT"
    words = [path]
    words += [_value_match(h["name"], h) for h in match.get("headers", ())]
    words += [_value_match(f"?{q['name']}", q) for q in match.get("query_parameters", ())]
    return " ".join(words)


def _value_match(name: str, match: Json) -> str:
    wanted = match.get("string_match", {})
    sign = "!=" if match.get("invert_match") else "="
    for form, shape in (
        ("exact", "{}"),
        ("prefix", "{}*"),
        ("suffix", "*{}"),
        ("contains", "*{}*"),
    ):
        if form in wanted:
            return f"{name}{sign}{shape.format(wanted[form])}"
    if "safe_regex" in wanted:
        return f"{name}{sign}~{wanted['safe_regex'].get('regex', '')}"
    return f"!{name}" if match.get("invert_match") else name


def _target(route: Json) -> str:
    if "route" in route:
        return _cluster_of(route["route"])
    if "redirect" in route:
        return "redirect"
    if "direct_response" in route:
        return f"answers {route['direct_response'].get('status', '-')}"
    return "-"


def _cluster_of(action: Json) -> str:
    """The cluster, or clusters with their weights, of a route or a TCP proxy."""
    parts = action.get("weighted_clusters", {}).get("clusters", ())
    named = ", ".join(f"{part['name']} {part.get('weight', 0)}" for part in parts)
    return action.get("cluster") or named or "-"


def endpoints(item: Json) -> Iterator[Row]:
    """Hosts of one cluster as `/clusters` knows them: with what outlier detection thinks."""
    for host in item.get("host_statuses", ()):
        health = host.get("health_status", {})
        yield {
            "ENDPOINT": _place(host.get("address", {})),
            "STATUS": health.get("eds_health_status", "HEALTHY"),
            "OUTLIER CHECK": "FAILED" if health.get("failed_outlier_check") else "OK",
            "CLUSTER": item.get("name", "-"),
        }


def _place(address: Json) -> str:
    """An address as people write it."""
    if "pipe" in address:
        return f"unix://{address['pipe'].get('path', '')}"
    if "envoy_internal_address" in address:
        return f"internal://{address['envoy_internal_address'].get('server_listener_name', '')}"
    sock = address.get("socket_address", {})
    host = sock.get("address", "-")
    return (
        f"[{host}]:{sock.get('port_value', '-')}"
        if ":" in host
        else (f"{host}:{sock.get('port_value', '-')}")
    )


def secrets(item: Json) -> Iterator[Row]:
    """Certificates with their time; keys are never in what Envoy tells."""
    is_chain = "tls_certificate" in item
    part = item.get("tls_certificate", {}).get("certificate_chain") or item.get(
        "validation_context", {}
    ).get("trusted_ca", {})
    yield {
        "RESOURCE NAME": item.get("name", "-"),
        "TYPE": "Cert Chain" if is_chain else "CA",
        **_times(part.get("inline_bytes", "")),
    }


def _times(encoded: str) -> Row:
    from cryptography import x509

    try:
        first, *_ = x509.load_pem_x509_certificates(base64.b64decode(encoded))
    except ValueError:
        return dict.fromkeys(("VALID", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"), "-")
    begins, ends = first.not_valid_before_utc, first.not_valid_after_utc
    valid = begins <= datetime.datetime.now(datetime.UTC) < ends
    return {
        "VALID": "yes" if valid else "no",
        "SERIAL NUMBER": f"{first.serial_number:x}",
        "NOT AFTER": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
        "NOT BEFORE": f"{begins:%Y-%m-%dT%H:%M:%SZ}",
    }


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "cluster": ("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE"),
    "listener": ("NAME", "ADDRESS", "PORT", "MATCH", "DESTINATION"),
    "route": ("NAME", "VIRTUAL HOST", "DOMAINS", "MATCH", "TARGET"),
    "endpoint": ("ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"),
    "secret": ("RESOURCE NAME", "TYPE", "VALID", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"),
}
TABLES: Mapping[str, Callable[[Json], Iterator[Row]]] = {
    "cluster": clusters,
    "listener": listeners,
    "route": routes,
    "endpoint": endpoints,
    "secret": secrets,
}
