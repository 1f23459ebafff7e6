"""TLS that a proxy ends with certificates of its own: at a gateway's servers, and at the ports
that a Sidecar lists."""

from collections.abc import Iterator
from typing import NamedTuple

from meltemi.base.problems import Code
from meltemi.compile import ir, names
from meltemi.compile.plan.secrets import Secrets
from meltemi.model.gateway import ClientCheck, Terminate

_MODES = {
    ClientCheck.NONE: ir.ServerTlsMode.SIMPLE,
    ClientCheck.REQUIRED: ir.ServerTlsMode.MUTUAL,
    ClientCheck.OPTIONAL: ir.ServerTlsMode.OPTIONAL_MUTUAL,
}


class Fault(NamedTuple):
    """Why it cannot be done yet."""

    code: Code
    field: str
    """Of the TLS block."""
    message: str


def faults(tls: Terminate, secrets: Secrets) -> Iterator[Fault]:
    """What its Secrets lack; without any it can be done."""
    authority = _authority(tls)
    wanted = [(name, secrets.certificate(name)) for name in tls.credentials]
    if authority:
        wanted.append((authority, secrets.authority(authority)))
    missing = [(name, why) for name, why in wanted if why]
    for name, why in missing:
        message = f"Secret {name!r}: {why}; until then this server is not opened"
        yield Fault(Code.UNKNOWN_SECRET, "credentialName", message)
    kinds = [secrets.kind(name) for name in tls.credentials]
    if not missing and len(set(kinds)) < len(kinds):
        message = f"the certificates are both {kinds[0]}: one RSA and one ECDSA can share"
        yield Fault(Code.BAD_VALUE, "credentialNames", message)


def server_tls(tls: Terminate, *, http: bool) -> ir.ServerTls:
    """`http`: HTTP is spoken inside."""
    if tls.check is ClientCheck.MESH:
        return ir.MESH_TLS
    authority = _authority(tls)
    return ir.ServerTls(
        mode=_MODES[tls.check],
        credentials=tuple(names.secret(name) for name in tls.credentials),
        authority=names.secret_authority(authority) if authority else "",
        files=tls.files,
        authority_file=tls.authority_file if tls.asks else "",
        revoked_file=tls.revoked_file if tls.asks else "",
        alpn=("h2", "http/1.1") if http else (),
        min_version=tls.min_version,
        max_version=tls.max_version,
        ciphers=tls.ciphers,
        subject_alt_names=tls.subject_alt_names,
        spki=tls.spki,
        hashes=tls.hashes,
    )


def _authority(tls: Terminate) -> str:
    """The Secret that says which clients to believe; empty: a file does, or nobody is asked."""
    if not tls.asks or tls.authority_file:
        return ""
    return tls.authority or next(iter(tls.credentials), "")
