"""What the injected environment says about the app: its probes, its metrics, its ports."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from meltemi.proxy.errors import BadSpec
from meltemi.proxy.spec import ProxySpec

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True):
    name: str
    value: str = ""


class HttpGet(msgspec.Struct, frozen=True, rename="camel"):
    port: int | str
    path: str = "/"
    scheme: str = "HTTP"
    host: str = ""
    http_headers: tuple[Header, ...] = ()


class TcpSocket(msgspec.Struct, frozen=True):
    port: int | str


class Prober(msgspec.Struct, frozen=True, rename="camel"):
    """A probe the injector rewrote to `/app-health/<container>/<kind>` of port 15020."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    timeout_seconds: int = 1


class Scrape(msgspec.Struct, frozen=True):
    """The app's own metrics, from its `prometheus.io/*` annotations."""

    port: int
    path: str = "/metrics"


class App(msgspec.Struct, frozen=True):
    """All of it; `ports` are those the agent must be able to reach."""

    probers: Mapping[str, Prober] = {}
    scrape: Scrape | None = None
    named_ports: Mapping[str, int] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        found = {self.port_of(prober) for prober in self.probers.values()}
        if self.scrape is not None:
            found.add(self.scrape.port)
        return tuple(sorted(found))

    def port_of(self, prober: Prober) -> int:
        """The number of a probe's port; BadSpec when its name is not among the pod's."""
        target = prober.http_get or prober.tcp_socket
        if target is None:
            raise BadSpec("ISTIO_KUBE_APP_PROBERS: a probe has neither httpGet nor tcpSocket")
        return _number(target.port, self.named_ports)


class _Port(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""


class _Annotations(msgspec.Struct, frozen=True):
    scrape: str = ""
    path: str = ""
    port: str = ""


def app_from_spec(spec: ProxySpec) -> App:
    """Read ISTIO_KUBE_APP_PROBERS, ISTIO_PROMETHEUS_ANNOTATIONS and ISTIO_META_POD_PORTS."""
    named = {
        port.name: port.container_port
        for port in _json(spec, "ISTIO_META_POD_PORTS", tuple[_Port, ...], ())
        if port.name
    }
    app = App(
        probers=_json(spec, "ISTIO_KUBE_APP_PROBERS", dict[str, Prober], {}),
        scrape=_scrape(spec, named),
        named_ports=named,
    )
    _ = app.ports
    return app


def _scrape(spec: ProxySpec, named: Mapping[str, int]) -> Scrape | None:
    name = "ISTIO_PROMETHEUS_ANNOTATIONS"
    said = _json(spec, name, _Annotations, _Annotations())
    if said.scrape != "true":
        return None
    port = _number(said.port or "80", named)
    return Scrape(port, said.path or "/metrics") if port != 15020 else None


def _number(port: int | str, named: Mapping[str, int]) -> int:
    number = named.get(port) if isinstance(port, str) else port
    if number is None and isinstance(port, str) and port.isdecimal():
        number = int(port)
    if number is None or not 0 < number < 65536:
        raise BadSpec(f"port {port!r} of a probe or scrape is not a port of the pod")
    return number


def _json(spec: ProxySpec, name: str, shape: type[T], default: T) -> T:
    text = spec.env.get(name, "").strip()
    if not text:
        return default
    try:
        return msgspec.json.decode(text, type=shape)
    except msgspec.MsgspecError as e:
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env {name}: {e}") from e
