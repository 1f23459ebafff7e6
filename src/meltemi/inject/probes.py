"""What the proxy does for the application's probes and metrics, which must work in STRICT mode."""

from collections.abc import Mapping, Sequence

from meltemi.api import names
from meltemi.api.meta import Json

JsonObject = dict[str, Json]

_WORDS = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
_HANDLERS = ("httpGet", "tcpSocket")
_METRICS_PATH = "/stats/prometheus"


def rewrite_probes(
    containers: Sequence[JsonObject],
) -> tuple[Sequence[JsonObject], Mapping[str, Json]]:
    """The containers with their HTTP and TCP probes sent through the agent, and what it asks.

    Others are left alone: exec runs inside the container.
    """
    probers: dict[str, Json] = {}
    return [_rewritten(container, probers) for container in containers], probers


def _rewritten(container: JsonObject, probers: dict[str, Json]) -> JsonObject:
    changed = dict(container)
    numbers = {p.get("name"): p.get("containerPort") for p in container.get("ports") or ()}
    for field, word in _WORDS.items():
        probe = container.get(field) or {}
        handler = next((h for h in _HANDLERS if probe.get(h)), None)
        if handler is None or _is_agents(probe):
            continue
        asked = dict(probe[handler])
        asked["port"] = numbers.get(asked.get("port"), asked.get("port"))
        path = f"/app-health/{container.get('name')}/{word}"
        probers[path] = {handler: asked, "timeoutSeconds": probe.get("timeoutSeconds", 1)}
        through = {"path": path, "port": names.METRICS_PORT, "scheme": "HTTP"}
        changed[field] = {
            **{k: v for k, v in probe.items() if k != handler},
            "httpGet": through,
        }
    return changed


def _is_agents(probe: JsonObject) -> bool:
    """Whether it goes through the agent already."""
    asked = probe.get("httpGet") or {}
    is_path = str(asked.get("path", "")).startswith("/app-health/")
    return bool(is_path and asked.get("port") == names.METRICS_PORT)


def merge_scrape(
    annotations: Mapping[str, str],
) -> tuple[Mapping[str, str], Mapping[str, str] | None]:
    """Annotations that point Prometheus at the merged metrics, and what they said of the app's.

    A pod that does not want to be scraped stays as it is.
    """
    prefix = "prometheus.io/"
    wish = annotations.get(f"{prefix}scrape", "").lower()
    if wish == "false":
        return {}, None
    merged = {
        f"{prefix}scrape": "true",
        f"{prefix}port": str(names.METRICS_PORT),
        f"{prefix}path": _METRICS_PATH,
    }
    said = {name: annotations.get(prefix + name, "") for name in ("path", "port")}
    is_merged = said == {"path": _METRICS_PATH, "port": str(names.METRICS_PORT)}
    if wish != "true" or is_merged:
        return merged, None
    return merged, {"scrape": "true", **said}
