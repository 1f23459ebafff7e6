"""What the control plane is told at start: everything it knows besides the API's objects."""

import datetime
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, whom to ask, and how long certificates live."""

    kubeconfig: Path | None
    """None: the cluster this process runs in."""
    run_dir: Path
    """Where `control.sock` goes, which the CLI asks."""
    xds_socket: Path
    """Serves ADS and the CA to the proxies of this machine."""
    cache_dir: Path
    """Envoy's descriptors, read once per build."""
    console_fd: int | None = None
    """An inherited listening socket; otherwise `console_port` is opened."""
    console_port: int = 20001
    grpc_port: int = 15012
    webhook_port: int = 15017
    monitoring_port: int = 15014
    host: str = "127.0.0.1"
    """Where the ports listen."""
    webhook_url: str = ""
    """How the API server reaches the webhook; empty: the Service istiod in `root_namespace`."""
    root_namespace: str = "istio-system"
    domain: str = "cluster.local"
    trust_domain: str = "cluster.local"
    cluster: str = "Kubernetes"
    certificate_lifetime: datetime.timedelta = datetime.timedelta(hours=24)


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Where a user's caches are, by the rule of the XDG base directories."""
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "meltemi"


def options_from_json(text: str, environment: Mapping[str, str]) -> Options:
    """Options as another process of ours writes them. Raises msgspec.ValidationError."""
    given = {"cache_dir": str(cache_dir(environment)), **msgspec.json.decode(text)}
    return msgspec.convert(given, Options, dec_hook=lambda kind, value: kind(value))
