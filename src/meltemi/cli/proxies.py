"""proxy-status and proxy-config: what each proxy was told, and what it has."""

import enum
import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import Format, fail, print_data, print_table
from meltemi.local.home import Home

FormatOption = Annotated[Format, typer.Option("-o", "--output", help="table, json or yaml.")]


def proxy_status(output: FormatOption = Format.TABLE, data: DataOption = None) -> None:
    """Show for every proxy whether it has acknowledged its configuration.

    Example: meltemi proxy-status -o json
    """
    proxies = ask(running_home(data), "/debug/syncz")
    if output is not Format.TABLE:
        print_data(proxies, output)
        return
    columns = ("proxy", "cds", "lds", "rds", "eds", "ecds")
    rows = [[p[c] for c in columns] + [str(len(p["rejected"]))] for p in proxies]
    print_table([c.upper() for c in columns] + ["REJECTED"], rows)
    for proxy in proxies:
        for rejection in proxy["rejected"]:
            typer.echo(f"{proxy['proxy']}: {rejection}", err=True)


class Section(enum.StrEnum):
    CLUSTER = "cluster"
    LISTENER = "listener"
    ROUTE = "route"
    ENDPOINT = "endpoint"
    SECRET = "secret"
    BOOTSTRAP = "bootstrap"
    ALL = "all"


def proxy_config(
    section: Section,
    pod: Annotated[str, typer.Argument(help="POD or POD.NAMESPACE")],
    output: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Show what a pod's Envoy holds, as Envoy itself says it.

    Example: meltemi proxy-config cluster productpage-v1-abc.default
    """
    name, _, namespace = pod.partition(".")
    home = running_home(data)
    dump = _ask_envoy(home, name, namespace or "default", "/config_dump?include_eds")
    chosen = dump if section is Section.ALL else _section(dump, section)
    if output is Format.TABLE and section not in (Section.ALL, Section.BOOTSTRAP):
        header, rows = _TABLES[section](chosen)
        print_table(header, rows)
    elif output is Format.YAML:
        print_data(chosen, output)
    else:
        print_data(chosen, Format.JSON)


def _ask_envoy(home: Home, pod: str, namespace: str, path: str) -> Any:
    """GET from a pod's Envoy, over the node: its admin port listens on the pod's loopback."""
    import asyncio

    import aiohttp

    async def get() -> bytes:
        connector = aiohttp.UnixConnector(str(home.node_socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://node/portforward/{quote(namespace)}/{quote(pod)}/15000"
            async with session.ws_connect(url, max_msg_size=0) as ws:
                head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                await ws.send_bytes(head.encode())
                return b"".join([message.data async for message in ws])

    try:
        reply = asyncio.run(get())
    except aiohttp.WSServerHandshakeError:
        fail(
            f"no pod {pod} runs in namespace {namespace}: "
            f"`kubectl get pods -n {namespace}` lists them; write POD.NAMESPACE for another one"
        )
    except (aiohttp.ClientError, OSError) as error:
        fail(f"the node does not answer ({error}): see {home.log_file('node')}")
    head, _, body = reply.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        fail(f"pod {pod}.{namespace} has no sidecar that answers on its port 15000")
    if b"transfer-encoding: chunked" in head.lower():
        body = _dechunked(body)
    return json.loads(body)


def _dechunked(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


_DUMPS = {
    Section.CLUSTER: ("ClustersConfigDump", ("static_clusters", "dynamic_active_clusters")),
    Section.LISTENER: ("ListenersConfigDump", ("static_listeners", "dynamic_listeners")),
    Section.ROUTE: ("RoutesConfigDump", ("static_route_configs", "dynamic_route_configs")),
    Section.ENDPOINT: (
        "EndpointsConfigDump",
        ("static_endpoint_configs", "dynamic_endpoint_configs"),
    ),
    Section.SECRET: ("SecretsConfigDump", ("static_secrets", "dynamic_active_secrets")),
}
_FIELDS = ("cluster", "listener", "route_config", "endpoint_config", "secret")


def _section(dump: dict[str, Any], section: Section) -> Any:
    if section is Section.BOOTSTRAP:
        return next(
            (c["bootstrap"] for c in dump["configs"] if c["@type"].endswith("BootstrapConfigDump")),
            {},
        )
    suffix, lists = _DUMPS[section]
    found = [c for c in dump["configs"] if c["@type"].endswith(suffix)]
    items = [item for config in found for name in lists for item in config.get(name, [])]
    return [_body(item) for item in items]


def _body(item: dict[str, Any]) -> Any:
    inner = item.get("active_state", item)
    for field in _FIELDS:
        if field in inner:
            return inner[field]
    return item


def _clusters(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for item in items:
        parts = item["name"].split("|")
        direction, port, subset, host = parts if len(parts) == 4 else ("-", "-", "-", item["name"])
        kind = item.get("type", item.get("cluster_type", {}).get("name", "STATIC"))
        rows.append([host or "-", port or "-", subset or "-", direction, kind])
    header = ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE"]
    return header, sorted(rows)


def _place(address: dict[str, Any]) -> str:
    """An address as people write it."""
    if "pipe" in address:
        return f"unix://{address['pipe'].get('path', '')}"
    sock = address.get("socket_address", {})
    return f"{sock.get('address', '-')}:{sock.get('port_value', '-')}"


def _listeners(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for item in items:
        chains = len(item.get("filter_chains", [])) + ("default_filter_chain" in item)
        rows.append([item.get("name", "-"), _place(item.get("address", {})), str(chains)])
    return ["NAME", "ADDRESS", "CHAINS"], sorted(rows)


def _routes(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for item in items:
        for host in item.get("virtual_hosts", []):
            for route in host.get("routes", []):
                match = json.dumps(route.get("match", {}), sort_keys=True)
                action = route.get("route", {})
                target = action.get("cluster") or ", ".join(
                    f"{c['name']} {c.get('weight', 0)}"
                    for c in action.get("weighted_clusters", {}).get("clusters", [])
                )
                rows.append([item.get("name", "-"), host["name"], match, target or "-"])
    return ["NAME", "VIRTUAL HOST", "MATCH", "TARGET"], rows


def _endpoints(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for item in items:
        for locality in item.get("endpoints", []):
            for entry in locality.get("lb_endpoints", []):
                where = _place(entry.get("endpoint", {}).get("address", {}))
                rows.append(
                    [where, entry.get("health_status", "HEALTHY"), item.get("cluster_name", "-")]
                )
    return ["ENDPOINT", "STATUS", "CLUSTER"], sorted(rows)


def _secrets(items: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for item in items:
        kind = "Cert Chain" if "tls_certificate" in item else "CA"
        rows.append([item.get("name", "-"), kind])
    return ["RESOURCE NAME", "TYPE"], sorted(rows)


_TABLES = {
    Section.CLUSTER: _clusters,
    Section.LISTENER: _listeners,
    Section.ROUTE: _routes,
    Section.ENDPOINT: _endpoints,
    Section.SECRET: _secrets,
}
