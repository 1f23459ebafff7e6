"""`meltemi inject -f`: manifests with the sidecar added to every pod template."""

import io
from collections.abc import Callable

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from meltemi.api.meta import Json
from meltemi.inject.patch import NotInjected, Refused, inject
from meltemi.inject.wishes import InjectConfig, JsonObject

_ENABLED = {"istio-injection": "enabled"}
_TEMPLATE = {
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


def inject_yaml(text: str, config: InjectConfig) -> str:
    """All documents, those with pods injected. Raises ValueError that names document and field."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.representer.ignore_aliases = lambda _: True
    try:
        documents = list(yaml.load_all(text))
    except YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    out = io.StringIO()
    for number, document in enumerate(documents, 1):
        if isinstance(document, dict):
            _inject_document(document, config, f"document {number}")
    yaml.dump_all([d for d in documents if d is not None], out)
    return out.getvalue()


def _inject_document(document: JsonObject, config: InjectConfig, where: str) -> None:
    kind = document.get("kind")
    if kind == "List":
        for number, item in enumerate(document.get("items") or (), 1):
            _inject_document(item, config, f"{where}, item {number}")
        return
    path = _TEMPLATE.get(str(kind))
    if path is None:
        return
    pod: Json = document
    for part in path:
        if not isinstance(pod, dict) or part not in pod:
            raise ValueError(f"{where}: {kind}: {'.'.join(path)} is missing")
        pod = pod[part]
    meta = document.get("metadata") or {}
    namespace = str(meta.get("namespace", "default"))
    template = dict(pod)
    if path:
        # A template's pods have no name of their own: the object's is what they belong to.
        template["metadata"] = {**(pod.get("metadata") or {}), "name": meta.get("name", "")}
    try:
        result = inject(_plain(template), _ENABLED, config, namespace=namespace)
    except Refused as error:
        raise ValueError(f"{where}: {kind} {meta.get('name', '')}: {error}") from error
    if isinstance(result, NotInjected):
        return
    if path:
        result["metadata"].pop("name", None)
    for key in ("metadata", "spec"):
        pod[key] = result[key]


def _plain(value: Json) -> Json:
    """Plain dicts and lists in place of the YAML library's."""
    convert: Callable[[Json], Json] = _plain
    if isinstance(value, dict):
        return {str(k): convert(v) for k, v in value.items()}
    if isinstance(value, list):
        return [convert(item) for item in value]
    return value
