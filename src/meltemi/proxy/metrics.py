"""One page of metrics from three sources: Envoy's, the app's, the agent's.

Envoy's stats access logger prints Istio's metrics with an `envoy_` prefix and blanks for what it
does not know (envoy-data-plane.md, section 4); dashboards expect `istio_` and `unknown`.
"""

import re

_PREFIX = re.compile(rb"^((?:# (?:TYPE|HELP) )?)envoy_istio_", re.MULTILINE)
_OPEN_METRICS_END = re.compile(rb"^# EOF\s*\Z", re.MULTILINE)


def rename(envoy: bytes) -> bytes:
    """Envoy's Prometheus text with Istio's names, and no blank label values.

    Quotes inside values are escaped, so `=""` is always an empty label, never part of one.
    """
    return _PREFIX.sub(rb"\1istio_", envoy).replace(b'=""', b'="unknown"')


def merge(envoy: bytes, app: bytes = b"", agent: bytes = b"") -> bytes:
    """All families, each page ended by a newline; the app's text stays as it is."""
    pages = (rename(envoy), _OPEN_METRICS_END.sub(b"", app), agent)
    return b"".join(page if page.endswith(b"\n") else page + b"\n" for page in pages if page)


def agent_page(*, version: str, seconds_left: float | None) -> bytes:
    """The agent's own: the build, and how long the certificate still holds."""
    lines = [
        "# TYPE istio_build gauge",
        f'istio_build{{component="proxy",tag="{version}"}} 1',
    ]
    if seconds_left is not None:
        lines += [
            "# TYPE istio_agent_cert_expiry_seconds gauge",
            f'istio_agent_cert_expiry_seconds{{resource_name="default"}} {seconds_left:.0f}',
        ]
    return ("\n".join(lines) + "\n").encode()
