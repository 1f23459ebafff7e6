"""Header names, header values, and edits of headers.

A value to set may hold Envoy's commands, `%DOWNSTREAM_REMOTE_ADDRESS%`; a percent sign that
stands for itself is doubled. Commands that read the proxy's environment or files are not allowed:
whoever may write a route must not see what other pods' proxies hold.
"""

import re
from collections.abc import Iterator

from meltemi.api import networking as net
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

LONGEST_VALUE = 8192
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST = frozenset(("host", ":authority"))
_COMMAND = re.compile(r"%(?:%|([A-Z][A-Z0-9_]*)(?:\(([^()%]+)\))?(?::([0-9]+))?%)")
_PEER = (
    "SUBJECT", "ISSUER", "URI_SAN", "DNS_SAN", "CERT", "CERT_V_START", "CERT_V_END",
)  # fmt: skip
_PLAIN = frozenset((
    "START_TIME", "PROTOCOL", "UPSTREAM_PROTOCOL", "RESPONSE_CODE", "RESPONSE_CODE_DETAILS",
    "RESPONSE_FLAGS", "CONNECTION_TERMINATION_DETAILS", "BYTES_RECEIVED", "BYTES_SENT",
    "DURATION", "REQUEST_DURATION", "RESPONSE_DURATION", "RESPONSE_TX_DURATION",
    "UPSTREAM_HOST", "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW", "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS", "UPSTREAM_REMOTE_PORT", "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT", "UPSTREAM_TLS_CIPHER", "UPSTREAM_TLS_VERSION",
    "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT", "DOWNSTREAM_TLS_CIPHER", "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TLS_SESSION_ID", "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_FINGERPRINT_1", "DOWNSTREAM_PEER_SERIAL", "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT", "CONNECTION_ID", "REQUESTED_SERVER_NAME", "ROUTE_NAME",
    "HOSTNAME", "VIRTUAL_CLUSTER_NAME", "TRACE_ID",
)) | {f"DOWNSTREAM_PEER_{what}" for what in _PEER}  # fmt: skip
_WITH_WORD = frozenset(("REQ", "RESP", "TRAILER", "DYNAMIC_METADATA"))


def name(text: str, path: str) -> Iterator[Finding]:
    if not _NAME.fullmatch(text.removeprefix(":")) or len(text) > 256:
        yield path, f"{text[:80]!r} is not the name of a header"


def names(listed: tuple[str, ...], path: str) -> Iterator[Finding]:
    for i, item in enumerate(listed):
        yield from name(item, f"{path}[{i}]")


def edits(headers: net.Headers | None, path: str) -> Iterator[Finding]:
    """`host` may be set on requests, where it is a rewrite; no other pseudo-header anywhere."""
    if headers is None:
        return
    for side, operations in (("request", headers.request), ("response", headers.response)):
        if operations is None:
            continue
        where = f"{path}.{side}"
        for key, value in operations.set.items():
            rewrites = side == "request" and key.lower() in _HOST
            yield from _edited(key, f"{where}.set", may_be_host=rewrites)
            yield from (
                _text(value, f"{where}.set[{key}]")
                if rewrites
                else _value(value, f"{where}.set[{key}]")
            )
        for key, value in operations.add.items():
            yield from _edited(key, f"{where}.add")
            yield from _value(value, f"{where}.add[{key}]")
        for i, key in enumerate(operations.remove):
            yield from _edited(key, f"{where}.remove[{i}]")


def _edited(key: str, path: str, *, may_be_host: bool = False) -> Iterator[Finding]:
    yield from name(key, path)
    if not may_be_host and (key.startswith(":") or key.lower() == "host"):
        yield (
            path,
            f"{key!r} cannot be changed here: set host in headers.request.set, or use rewrite",
        )


def _text(value: str, path: str) -> Iterator[Finding]:
    if not value:
        yield path, "a host must not be empty"
    yield from words.text(value, path)


def _value(value: str, path: str) -> Iterator[Finding]:
    yield from words.text(value, path)
    if len(value.encode()) > LONGEST_VALUE:
        yield path, f"a value may have {LONGEST_VALUE} bytes at most"
    if "%" in _COMMAND.sub("", value):
        yield path, 'a "%" that stands for itself is written "%%"; commands look like %ROUTE_NAME%'
    for command, word, _ in _COMMAND.findall(value):
        known = command in _WITH_WORD if word else command in _PLAIN
        if command and not known:
            yield path, f"%{command}% is not a command that may be used in headers"
