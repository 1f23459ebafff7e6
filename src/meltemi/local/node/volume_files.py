"""The files that ConfigMaps, Secrets, tokens and the pod itself put into a volume: pure."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from meltemi.base.redacted import Redacted
from meltemi.local.node.environment import Environment
from meltemi.local.node.errors import BadPod, VolumeMissing
from meltemi.local.node.objects import Objects
from meltemi.local.node.podspec import (
    ConfigMapSource,
    DownwardSource,
    Item,
    Pod,
    Projection,
    SecretSource,
    TokenSource,
    Volume,
)

_TOKEN_MODE = 0o600

Fetch = Callable[[TokenSource], Awaitable[Redacted]]


class File(msgspec.Struct, frozen=True):
    """One file of a volume."""

    path: str
    content: bytes
    mode: int
    is_private: bool = False
    """A token: only the pod's own user may read it."""


class Sources:
    """What the volumes of one pod are filled from."""

    def __init__(self, objects: Objects, token: Fetch) -> None:
        self._objects = objects
        self._token = token

    async def files(
        self, pod: Pod, volume: Volume, environment: Environment
    ) -> Sequence[File] | None:
        """The wanted files; None for a volume whose content is not ours.

        Raises VolumeMissing, BadPod, KubeError.
        """
        if volume.config_map is not None:
            return self._from_config_map(pod, volume.config_map, volume.config_map.default_mode)
        if volume.secret is not None:
            return self._from_secret(pod, volume.secret, volume.secret.default_mode)
        if volume.downward_api is not None:
            mode = volume.downward_api.default_mode
            return _from_pod(pod, volume.downward_api, mode, environment)
        if volume.projected is not None:
            mode = volume.projected.default_mode
            files: list[File] = []
            for source in volume.projected.sources:
                files += await self._projected(pod, source, mode, environment)
            return files
        return None

    async def _projected(
        self, pod: Pod, source: Projection, mode: int, environment: Environment
    ) -> Sequence[File]:
        if source.config_map is not None:
            return self._from_config_map(pod, source.config_map, mode)
        if source.secret is not None:
            return self._from_secret(pod, source.secret, mode)
        if source.downward_api is not None:
            return _from_pod(pod, source.downward_api, mode, environment)
        if source.service_account_token is not None:
            token = await self._token(source.service_account_token)
            path = source.service_account_token.path
            return [File(path, token.reveal(), _TOKEN_MODE, is_private=True)]
        return []

    def _from_config_map(self, pod: Pod, source: ConfigMapSource, mode: int) -> Sequence[File]:
        data = self._objects.config_map(pod.metadata.namespace, source.name)
        return _chosen("ConfigMap", source.name, data, source.items, source.optional, mode)

    def _from_secret(self, pod: Pod, source: SecretSource, mode: int) -> Sequence[File]:
        name = source.secret_name or source.name
        data = self._objects.secret(pod.metadata.namespace, name)
        return _chosen("Secret", name, data, source.items, source.optional, mode)


def _from_pod(
    pod: Pod, source: DownwardSource, mode: int, environment: Environment
) -> Sequence[File]:
    files = []
    for item in source.items:
        if item.field_ref is not None:
            text = environment.field(pod, item.field_ref.field_path)
        elif item.resource_field_ref is not None:
            text = environment.resource(pod.spec.containers[0], item.resource_field_ref)
        else:
            raise BadPod(f"downwardAPI item {item.path}: fieldRef or resourceFieldRef is missing")
        files.append(File(item.path, text.encode(), item.mode or mode))
    return files


def _chosen(
    kind: str,
    name: str,
    data: Mapping[str, bytes] | None,
    items: Sequence[Item],
    optional: bool,
    mode: int,
) -> Sequence[File]:
    """All keys, or those that `items` choose."""
    if data is None:
        if optional:
            return []
        raise VolumeMissing(f'{kind} "{name}" not found; the pod starts once it is there')
    if not items:
        return [File(key, value, mode) for key, value in sorted(data.items())]
    files = []
    for item in items:
        if item.key in data:
            files.append(File(item.path, data[item.key], item.mode or mode))
        elif not optional:
            raise VolumeMissing(f'{kind} "{name}" has no key "{item.key}"')
    return files
