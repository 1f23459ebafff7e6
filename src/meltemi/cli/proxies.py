"""proxy-status and proxy-config: what each proxy was told, and what it has."""

import enum
import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from meltemi.cli.mesh import DataOption, ask, running_home
from meltemi.cli.output import Format, fail, print_data, print_table
from meltemi.cli.proxy_tables import COLUMNS, TABLES, Row
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
    pod: Annotated[str, typer.Argument(help="POD[.NS] or deploy/NAME[.NS]")],
    fqdn: Annotated[str, typer.Option(help="Clusters of this host.")] = "",
    port: Annotated[str, typer.Option(help="Clusters and listeners of this port.")] = "",
    subset: Annotated[str, typer.Option(help="Clusters of this subset.")] = "",
    direction: Annotated[str, typer.Option(help="Clusters: inbound or outbound.")] = "",
    name: Annotated[str, typer.Option(help="Listeners, routes, secrets of this name.")] = "",
    cluster: Annotated[str, typer.Option(help="Endpoints of this cluster.")] = "",
    status: Annotated[str, typer.Option(help="Endpoints in this state: HEALTHY, say.")] = "",
    output: FormatOption = Format.TABLE,
    data: DataOption = None,
) -> None:
    """Show what a pod's Envoy holds, as Envoy itself says it.

    Example: meltemi proxy-config cluster deploy/productpage-v1 --port 9080
    """
    wanted = {
        "SERVICE FQDN": fqdn,
        "PORT": port,
        "SUBSET": subset,
        "DIRECTION": direction,
        ("RESOURCE NAME" if section is Section.SECRET else "NAME"): name,
        "CLUSTER": cluster,
        "STATUS": status,
    }
    home = running_home(data)
    where, _, namespace = _pod_of(home, pod).partition(".")
    path = "/clusters?format=json" if section is Section.ENDPOINT else "/config_dump"
    dump = _ask_envoy(home, where, namespace, path)
    if section is Section.ALL:
        print_data(dump, Format.YAML if output is Format.YAML else Format.JSON)
        return
    items = _section(dump, section)
    if section is not Section.BOOTSTRAP:
        shown = _filtered(section, items, {column: v for column, v in wanted.items() if v})
        if output is Format.TABLE:
            rows = [tuple(row.values()) for _, found in shown for row in found]
            # Chains and routes stay in Envoy's order, which decides.
            rows.sort(key=lambda row: row[: _SORTED.get(section, len(row))])
            print_table(_header(section), rows)
            return
        items = [item for item, _ in shown]
    print_data(items, Format.YAML if output is Format.YAML else Format.JSON)


def _filtered(
    section: Section, items: list[dict[str, Any]], wanted: dict[str, str]
) -> list[tuple[dict[str, Any], list[Row]]]:
    """The resources that have such rows, with these rows."""
    unknown = [column.lower() for column in wanted if column not in _header(section)]
    if unknown:
        fail(f"{section.value}: there is no column {unknown[0]} to choose by", 2)
    found = []
    for item in items:
        rows = [
            row
            for row in TABLES[section](item)
            if all(row[column] == value for column, value in wanted.items())
        ]
        if rows or not wanted:
            found.append((item, rows))
    return found


def _header(section: Section) -> list[str]:
    return list(COLUMNS[section])


def _pod_of(home: Home, asked: str) -> str:
    """`pod.namespace`, for a pod's own name or that of its Deployment."""
    kind, slash, rest = asked.rpartition("/")
    name, _, namespace = rest.partition(".")
    namespace = namespace or "default"
    if slash and kind not in ("deploy", "deployment", "deployments", "pod", "pods", "po"):
        fail(f"{asked}: expected POD, POD.NAMESPACE or deploy/NAME", 2)
    if kind.startswith("po"):
        return f"{name}.{namespace}"
    known = [p["proxy"] for p in ask(home, "/debug/syncz")]
    pods = sorted(proxy for proxy in known if _is_of(proxy, name, namespace))
    if f"{name}.{namespace}" in known or not (slash or pods):
        return f"{name}.{namespace}"
    if not pods:
        fail(f"no proxy of deploy/{name} in namespace {namespace} is connected")
    return str(pods[0])


def _is_of(proxy: str, deployment: str, namespace: str) -> bool:
    """Pods of a Deployment are called after it and its ReplicaSet."""
    pod, _, space = proxy.partition(".")
    return space == namespace and pod.rsplit("-", 2)[0] == deployment


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
    Section.SECRET: ("SecretsConfigDump", ("static_secrets", "dynamic_active_secrets")),
}
_SORTED = {Section.LISTENER: 1, Section.ROUTE: 2}
"""How many columns order the rows; all of them elsewhere."""
_FIELDS = ("cluster", "listener", "route_config", "secret")


def _section(dump: dict[str, Any], section: Section) -> Any:
    if section is Section.ENDPOINT:
        return dump.get("cluster_statuses", [])
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
