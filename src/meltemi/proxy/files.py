"""Secrets that are files of the pod: the agent names the files, and Envoy reads and watches them.

Envoy stands in the container, where the paths mean something; the agent need not. Envoy reads files
again when something is renamed in one of their directories, and keeps what it has until the new
ones fit together. Names are Istio's: `file-cert:CHAIN~KEY` and `file-root:AUTHORITY`, here with an
optional `~REVOKED`.
"""

from meltemi.proxy.messages import Codec, SealedSecret

_CERTIFICATE, _ROOT = "file-cert:", "file-root:"
_SYSTEM, _SYSTEM_ROOTS = "system", "/etc/ssl/certs/ca-certificates.crt"


def is_of_files(name: str) -> bool:
    return name.startswith((_CERTIFICATE, _ROOT))


def secret_of_files(codec: Codec, name: str, attempt: int = 0) -> SealedSecret:
    """The secret of a name. Envoy does not look again at files that were missing unless the secret
    differs: each further `attempt` writes the same paths in another way."""
    _, _, text = name.partition(":")
    first, _, second = text.partition("~")
    if first == _SYSTEM and name.startswith(_ROOT):
        first = _SYSTEM_ROOTS
    first, second = _written(first, attempt), _written(second, attempt)
    version = f"files-{attempt}"
    if name.startswith(_CERTIFICATE):
        return codec.certificate_files(name, version, first, second)
    return codec.root_files(name, version, first, second)


def _written(path: str, attempt: int) -> str:
    return f"/.{path}" if path.startswith("/") and attempt % 2 else path
