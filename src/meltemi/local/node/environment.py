"""A container's environment: values, references, and the expansion of $(NAME)."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from meltemi.local.node.errors import BadPod, VolumeMissing
from meltemi.local.node.podspec import Container, EnvVar, KeyRef, NameRef, Pod, ResourceRef
from meltemi.local.node.services import Virtual

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Lookup = Callable[[str, str], Mapping[str, str] | None]
"""(namespace, name) to data; None when the object is not there."""

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value; an unknown one stays as it is, and $$ is one $."""

    def replace(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return known.get(match[2], match[0])

    return _REFERENCE.sub(replace, text)


def field(pod: Pod, path: str, facts: Mapping[str, str]) -> str:
    """The value of a fieldRef. `facts` holds what only the node knows, such as `status.podIP`.

    Raises BadPod for a path that there isn't.
    """
    indexed = _INDEXED.fullmatch(path)
    meta = pod.metadata
    if indexed:
        source = meta.labels if indexed[1] == "labels" else meta.annotations
        return source.get(indexed[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        source = meta.labels if path.endswith("labels") else meta.annotations
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(source.items()))
    values = {
        **facts,
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
    }
    if path not in values:
        raise BadPod(f"fieldRef.fieldPath {path}: there is no such field")
    return values[path]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@contextlib.contextmanager
def _within(place: str) -> Iterator[None]:
    """Say where in the container's spec something is wrong."""
    try:
        yield
    except (BadPod, VolumeMissing) as error:
        raise type(error)(f"{place}: {error}") from error


class Environment:
    """Builds environments for the containers of one pod."""

    def __init__(
        self,
        pod: Pod,
        facts: Mapping[str, str],
        *,
        config_map: Lookup,
        secret: Lookup,
        services: Sequence[Virtual] = (),
    ) -> None:
        self._pod = pod
        self._facts = facts
        self._config_map = config_map
        self._secret = secret
        self._services = services

    def field(self, pod: Pod, path: str) -> str:
        """The value of a fieldRef in the pod as it is now. Raises BadPod."""
        return field(pod, path, self._facts)

    def of(self, container: Container, defaults: Mapping[str, str]) -> dict[str, str]:
        """All variables. Raises VolumeMissing when a reference is not there yet, BadPod."""
        env = {"PATH": PATH, "HOME": "/root", "HOSTNAME": self._facts.get("hostname", "")}
        env |= service_links(self._services)
        env |= defaults
        for number, source in enumerate(container.env_from):
            for ref, lookup, kind in (
                (source.config_map_ref, self._config_map, "ConfigMap"),
                (source.secret_ref, self._secret, "Secret"),
            ):
                with _within(f"envFrom[{number}]"):
                    env |= self._all_of(source.prefix, ref, lookup, kind)
        for variable in container.env:
            with _within(f"env {variable.name}"):
                value = self._value(container, variable, env)
            if value is not None:
                env[variable.name] = value
        return env

    def _all_of(
        self, prefix: str, ref: NameRef | None, lookup: Lookup, kind: str
    ) -> Mapping[str, str]:
        if ref is None:
            return {}
        data = lookup(self._pod.metadata.namespace, ref.name)
        if data is None and not ref.optional:
            raise self._missing(f'{kind} "{ref.name}"')
        return {f"{prefix}{key}": value for key, value in (data or {}).items()}

    def _value(
        self, container: Container, variable: EnvVar, known: Mapping[str, str]
    ) -> str | None:
        source = variable.value_from
        if source is None:
            return expand(variable.value, known)
        if source.field_ref is not None:
            return field(self._pod, source.field_ref.field_path, self._facts)
        if source.resource_field_ref is not None:
            return self.resource(container, source.resource_field_ref)
        if source.config_map_key_ref is not None:
            return self._keyed(source.config_map_key_ref, self._config_map, "ConfigMap")
        if source.secret_key_ref is not None:
            return self._keyed(source.secret_key_ref, self._secret, "Secret")
        raise BadPod("valueFrom is empty: name a fieldRef, resourceFieldRef or KeyRef")

    def _keyed(self, ref: KeyRef, lookup: Lookup, kind: str) -> str | None:
        data = lookup(self._pod.metadata.namespace, ref.name)
        if data is not None and ref.key in data:
            return data[ref.key]
        if ref.optional:
            return None
        what = (
            f'key "{ref.key}" of {kind} "{ref.name}"'
            if data is not None
            else f'{kind} "{ref.name}"'
        )
        raise self._missing(what)

    def _missing(self, what: str) -> VolumeMissing:
        return VolumeMissing(
            f"{what} not found in namespace {self._pod.metadata.namespace}; the container starts "
            "once it is there, or where it is optional"
        )

    def resource(self, container: Container, ref: ResourceRef) -> str:
        """A limit or request of a container, divided and rounded up. Raises BadPod."""
        spec = self._pod.spec
        named = ref.container_name or container.name
        found = next(
            (c for c in (*spec.containers, *spec.init_containers) if c.name == named), None
        )
        if found is None:
            raise BadPod(f"resourceFieldRef.containerName {named}: no such container")
        side, _, name = ref.resource.partition(".")
        limits, requests = found.resources.limits, found.resources.requests
        amount: str | int | float = requests.get(name, limits.get(name, 0))
        if side == "limits":
            # Without a limit a container may use the whole machine.
            amount = limits.get(name, self._facts.get(f"capacity.{name}", "0"))
        divided = quantity(str(amount)) / (quantity(str(ref.divisor)) or 1)
        return str(-int(-divided // 1))


_SUFFIXES = {
    "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
_QUANTITY = re.compile(r"([0-9.]+)([a-zA-Z]*)")


def quantity(text: str) -> float:
    """A Kubernetes quantity such as 100m or 64Mi. Raises BadPod."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in _SUFFIXES:
        raise BadPod(f"{text} is not a quantity such as 100m or 64Mi")
    return float(match[1]) * _SUFFIXES[match[2]]


def service_links(services: Sequence[Virtual]) -> Mapping[str, str]:
    """NAME_SERVICE_HOST and NAME_SERVICE_PORT of the namespace's Services."""
    env = {}
    for service in services:
        if service.is_headless or not service.ports:
            continue
        name = service.name.upper().replace("-", "_")
        env[f"{name}_SERVICE_HOST"] = service.cluster_ip
        env[f"{name}_SERVICE_PORT"] = str(service.ports[0].port)
        for port in service.ports:
            if port.name:
                suffix = port.name.upper().replace("-", "_")
                env[f"{name}_SERVICE_PORT_{suffix}"] = str(port.port)
    return env
