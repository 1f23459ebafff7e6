"""Where the API is and who we are: a kubeconfig file, or a pod's own service account.

Read once at start; only a token file is read again, because kubelets rotate it.
"""

import base64
import binascii
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from meltemi.api.meta import Json
from meltemi.base.redacted import Redacted
from meltemi.kube.errors import BadKubeconfig
from meltemi.kube.tls import load_chain

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Access(msgspec.Struct, frozen=True):
    """Everything needed to call one API server as one user."""

    server: str
    """Base URL without a trailing slash."""
    namespace: str = "default"
    ca: bytes | None = None
    """PEM roots; None means the system's."""
    server_name: str | None = None
    """The name the server's certificate must carry, when it isn't the URL's host."""
    client_cert: bytes | None = None
    client_key: Redacted | None = None
    token: Redacted | None = None
    token_file: Path | None = None


class _Wire(msgspec.Struct, frozen=True, rename="kebab"):
    pass


class _Cluster(_Wire, frozen=True):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str | None = None


class _User(_Wire, frozen=True):
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    username: str = ""
    exec: Json = None
    auth_provider: Json = None


class _Context(_Wire, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = "default"


class _NamedCluster(_Wire, frozen=True):
    name: str
    cluster: _Cluster = _Cluster()


class _NamedUser(_Wire, frozen=True):
    name: str
    user: _User = _User()


class _NamedContext(_Wire, frozen=True):
    name: str
    context: _Context = _Context()


class _Config(_Wire, frozen=True):
    clusters: tuple[_NamedCluster, ...] | None = ()
    users: tuple[_NamedUser, ...] | None = ()
    contexts: tuple[_NamedContext, ...] | None = ()
    current_context: str = ""


def access_from_file(path: Path, context: str = "") -> Access:
    """Read a kubeconfig; `context` overrides its current one. Raises BadKubeconfig."""
    try:
        config = msgspec.yaml.decode(path.read_bytes(), type=_Config)
    except OSError as e:
        raise BadKubeconfig(f"kubeconfig {path}: {e.strerror}") from e
    except msgspec.MsgspecError as e:
        raise BadKubeconfig(f"kubeconfig {path}: {e}") from e
    wanted = context or config.current_context
    if not wanted:
        raise BadKubeconfig(f"kubeconfig {path}: no current-context; name one")
    chosen = _named(config.contexts, wanted, f"kubeconfig {path}: context").context
    cluster = _named(config.clusters, chosen.cluster, f"kubeconfig {path}: cluster").cluster
    user = _User()
    if chosen.user:
        user = _named(config.users, chosen.user, f"kubeconfig {path}: user").user
    return _access(path, cluster, user, chosen.namespace or "default")


def access_in_cluster(host: str, port: str, directory: Path = SERVICE_ACCOUNT_DIR) -> Access:
    """A pod's access. `host`, `port`: its KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT."""
    if not host or not port:
        raise BadKubeconfig("not inside a cluster: KUBERNETES_SERVICE_HOST is empty")
    shown = f"[{host}]" if ":" in host else host
    return Access(
        server=f"https://{shown}:{port}",
        namespace=_read(directory / "namespace").decode().strip() or "default",
        ca=_read(directory / "ca.crt"),
        token_file=directory / "token",
    )


def ssl_context(access: Access) -> ssl.SSLContext | None:
    """The TLS settings of an access; None for plain http, which is for loopback only."""
    if not access.server.startswith("https://"):
        return None
    try:
        roots = access.ca.decode() if access.ca is not None else None
        context = ssl.create_default_context(cadata=roots)
        if access.client_cert is not None and access.client_key is not None:
            load_chain(context, access.client_cert, access.client_key)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as e:
        raise BadKubeconfig(f"certificates for {access.server}: {e}") from e
    return context


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _named(entries: Iterable[N] | None, name: str, what: str) -> N:
    for entry in entries or ():
        if entry.name == name:
            return entry
    raise BadKubeconfig(f"{what} {name!r} is not defined in the file")


def _access(path: Path, cluster: _Cluster, user: _User, namespace: str) -> Access:
    where = f"kubeconfig {path}"
    url = urlsplit(cluster.server)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise BadKubeconfig(f"{where}: server {cluster.server!r} is not an http(s) URL")
    if cluster.insecure_skip_tls_verify:
        raise BadKubeconfig(
            f"{where}: insecure-skip-tls-verify is refused; set certificate-authority-data"
        )
    if url.scheme == "http" and url.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise BadKubeconfig(f"{where}: plain http is only for loopback; use https")
    if user.exec is not None or user.auth_provider is not None:
        raise BadKubeconfig(
            f"{where}: exec and auth-provider plugins are not supported; put a token in the "
            "user, for example from `kubectl create token`"
        )
    if user.username:
        raise BadKubeconfig(f"{where}: basic authentication is not supported; use a token")
    cert = _data_or_file(path, user.client_certificate_data, user.client_certificate)
    key = _data_or_file(path, user.client_key_data, user.client_key)
    if (cert is None) != (key is None):
        raise BadKubeconfig(f"{where}: client-certificate and client-key go together")
    return Access(
        server=cluster.server.rstrip("/"),
        namespace=namespace,
        ca=_data_or_file(path, cluster.certificate_authority_data, cluster.certificate_authority),
        server_name=cluster.tls_server_name,
        client_cert=cert,
        client_key=Redacted(key) if key is not None else None,
        token=Redacted(user.token.encode()) if user.token else None,
        token_file=path.parent / user.token_file if user.token_file else None,
    )


def _data_or_file(config: Path, data: str, file: str) -> bytes | None:
    """Inline data wins over a file, and files are relative to the kubeconfig, as in kubectl."""
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error as e:
            raise BadKubeconfig(f"kubeconfig {config}: a *-data field is not base64") from e
    return _read(config.parent / file) if file else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise BadKubeconfig(f"{path}: {e.strerror}") from e
