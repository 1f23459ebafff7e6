"""A user's own proxy container laid over the template's, as a strategic merge patch would.

Lists of containers' things are merged by the key that Kubernetes gives them; a probe or a hook
that says what to do replaces the template's, because it may do one thing only.
"""

from collections.abc import Mapping

from meltemi.api.meta import Json

JsonObject = dict[str, Json]

_KEYS = {
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_HANDLERS = frozenset({"httpGet", "tcpSocket", "exec", "grpc", "sleep"})


def overlay(base: Mapping[str, Json], own: Mapping[str, Json]) -> JsonObject:
    """`own` over `base`; neither is changed."""
    merged = dict(base)
    for name, value in own.items():
        merged[name] = _merged(name, base.get(name), value)
    return merged


def _merged(name: str, before: Json, value: Json) -> Json:
    if isinstance(value, dict) and isinstance(before, dict):
        return value if _HANDLERS & value.keys() else overlay(before, value)
    key = _KEYS.get(name)
    if key is not None and isinstance(value, list) and isinstance(before, list):
        return _by_key(key, before, value)
    return before if value is None else value


def _by_key(key: str, before: list[JsonObject], own: list[JsonObject]) -> list[Json]:
    """The user's items replace those of the same key, where they stand; the rest follows."""
    theirs = {item.get(key): item for item in own}
    known = {item.get(key) for item in before}
    kept = [theirs.get(item.get(key), item) for item in before]
    return [*kept, *(item for item in own if item.get(key) not in known)]
