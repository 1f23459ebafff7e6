"""Volumes: directories on the machine, filled from objects and kept current.

Files of ConfigMaps, Secrets, tokens and the downward API live behind a link `..data` that is
switched in one step, as kubelets do it, so a reader never sees half of an update.
"""

import asyncio
import base64
import contextlib
import datetime
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from meltemi.base.clock import Clock
from meltemi.base.keys import ObjectKey
from meltemi.base.redacted import Redacted
from meltemi.kube.client import Client
from meltemi.kube.informer import Event
from meltemi.local.node.environment import Environment, field
from meltemi.local.node.errors import BadPod, VolumeMissing
from meltemi.local.node.podspec import (
    ConfigMapSource,
    Container,
    DownwardSource,
    Item,
    Pod,
    Projection,
    SecretSource,
    TokenSource,
    Volume,
)

log = logging.getLogger(__name__)

_RENEW_AT = 0.8
"""The part of a token's life after which a new one is fetched, as kubelets do it."""


class File(msgspec.Struct, frozen=True):
    """One file of a volume."""

    path: str
    content: bytes
    mode: int


class _Data(msgspec.Struct, frozen=True, rename="camel"):
    data: dict[str, str] | None = None
    binary_data: dict[str, str] | None = None


class Objects:
    """ConfigMaps and Secrets of all namespaces, from their informers."""

    def __init__(self) -> None:
        self._raw: dict[ObjectKey, bytes] = {}
        self.changed = asyncio.Event()
        """Replaced and set at each change; take it before looking, wait on it after."""

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.raw is None:
                self._raw.pop(event.key, None)
            else:
                self._raw[event.key] = event.raw
        done, self.changed = self.changed, asyncio.Event()
        done.set()

    def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self._find("ConfigMap", namespace, name)
        if found is None:
            return None
        plain = {k: v.encode() for k, v in (found.data or {}).items()}
        return plain | {k: base64.b64decode(v) for k, v in (found.binary_data or {}).items()}

    def secret(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        found = self._find("Secret", namespace, name)
        if found is None:
            return None
        return {k: base64.b64decode(v) for k, v in (found.data or {}).items()}

    def _find(self, kind: str, namespace: str, name: str) -> _Data | None:
        raw = self._raw.get(ObjectKey(kind, namespace, name))
        return msgspec.json.decode(raw, type=_Data) if raw is not None else None


class Tokens:
    """Service account tokens of one pod, renewed before they expire."""

    def __init__(self, client: Client, clock: Clock, pod: Pod) -> None:
        self._client = client
        self._clock = clock
        self._pod = pod
        self._held: dict[tuple[str, int], tuple[Redacted, datetime.datetime]] = {}

    async def get(self, source: TokenSource) -> Redacted:
        """Raises KubeError."""
        key = (source.audience, source.expiration_seconds)
        held = self._held.get(key)
        if held is not None and self._clock.now() < held[1]:
            return held[0]
        meta = self._pod.metadata
        lifetime = datetime.timedelta(seconds=source.expiration_seconds)
        token = await self._client.create_token(
            meta.namespace,
            self._pod.spec.service_account_name,
            audiences=(source.audience,) if source.audience else (),
            lifetime=lifetime,
            pod=(meta.name, meta.uid),
        )
        left = token.expires - self._clock.now()
        self._held[key] = (token.secret, self._clock.now() + left * _RENEW_AT)
        return token.secret

    def next_renewal(self) -> datetime.datetime | None:
        """When the first of them has to be renewed."""
        return min((when for _, when in self._held.values()), default=None)


class Volumes:
    """The volumes of one pod."""

    def __init__(
        self,
        pod: Pod,
        directory: Path,
        *,
        objects: Objects,
        tokens: Tokens,
        environment: Environment,
        facts: Mapping[str, str],
    ) -> None:
        self._pod = pod
        self._directory = directory
        self._objects = objects
        self._tokens = tokens
        self._environment = environment
        self._facts = facts
        self._written: dict[str, Sequence[File]] = {}

    async def prepare(self) -> None:
        """Make and fill every volume, or bring it up to date.

        Raises VolumeMissing, BadPod, KubeError.
        """
        for volume in self._pod.spec.volumes:
            place = self._directory / volume.name
            files = await self._files(volume)
            if files is None:
                await asyncio.to_thread(_make_plain, volume, place)
            elif self._written.get(volume.name) != files:
                await asyncio.to_thread(_write, place, files)
                self._written[volume.name] = files

    def source(self, container: Container, name: str, sub_path: str) -> Path:
        """Where a volume is on the machine. Raises BadPod."""
        volume = next((v for v in self._pod.spec.volumes if v.name == name), None)
        if volume is None:
            raise BadPod(f"container {container.name}: volumeMounts: no volume is named {name}")
        base = Path(volume.host_path.path) if volume.host_path else self._directory / name
        if not sub_path:
            return base
        place = Path(os.path.normpath(base / sub_path))
        if not place.is_relative_to(base):
            raise BadPod(f"container {container.name}: subPath {sub_path} leads out of the volume")
        if not place.exists():
            place.mkdir(parents=True)
        return place

    def next_renewal(self) -> datetime.datetime | None:
        """When a token has to be fetched anew."""
        return self._tokens.next_renewal()

    async def token(self, source: TokenSource) -> Redacted:
        return await self._tokens.get(source)

    async def _files(self, volume: Volume) -> Sequence[File] | None:
        """The wanted files; None for a volume that has content of its own."""
        if volume.config_map is not None:
            return self._from_config_map(volume.config_map, volume.config_map.default_mode)
        if volume.secret is not None:
            return self._from_secret(volume.secret, volume.secret.default_mode)
        if volume.downward_api is not None:
            return self._from_pod(volume.downward_api, volume.downward_api.default_mode)
        if volume.projected is not None:
            mode = volume.projected.default_mode
            files: list[File] = []
            for source in volume.projected.sources:
                files += await self._projected(source, mode)
            return files
        return None

    async def _projected(self, source: Projection, mode: int) -> Sequence[File]:
        if source.config_map is not None:
            return self._from_config_map(source.config_map, mode)
        if source.secret is not None:
            return self._from_secret(source.secret, mode)
        if source.downward_api is not None:
            return self._from_pod(source.downward_api, mode)
        if source.service_account_token is not None:
            token = await self._tokens.get(source.service_account_token)
            return [File(source.service_account_token.path, token.reveal(), 0o600)]
        return []

    def _from_config_map(self, source: ConfigMapSource, mode: int) -> Sequence[File]:
        data = self._objects.config_map(self._pod.metadata.namespace, source.name)
        return _chosen("ConfigMap", source.name, data, source.items, source.optional, mode)

    def _from_secret(self, source: SecretSource, mode: int) -> Sequence[File]:
        name = source.secret_name or source.name
        data = self._objects.secret(self._pod.metadata.namespace, name)
        return _chosen("Secret", name, data, source.items, source.optional, mode)

    def _from_pod(self, source: DownwardSource, mode: int) -> Sequence[File]:
        files = []
        for item in source.items:
            if item.field_ref is not None:
                text = field(self._pod, item.field_ref.field_path, self._facts)
            elif item.resource_field_ref is not None:
                container = self._pod.spec.containers[0]
                text = self._environment.resource(container, item.resource_field_ref)
            else:
                raise BadPod(
                    f"downwardAPI item {item.path}: fieldRef or resourceFieldRef is missing"
                )
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
        raise VolumeMissing(f'{kind} "{name}" not found')
    if not items:
        return [File(key, value, mode) for key, value in sorted(data.items())]
    files = []
    for item in items:
        if item.key in data:
            files.append(File(item.path, data[item.key], item.mode or mode))
        elif not optional:
            raise VolumeMissing(f'{kind} "{name}" has no key "{item.key}"')
    return files


def _make_plain(volume: Volume, place: Path) -> None:
    """An emptyDir, or the check of a hostPath. Raises BadPod."""
    if volume.host_path is not None:
        path = Path(volume.host_path.path)
        if volume.host_path.type in ("DirectoryOrCreate", ""):
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            raise BadPod(f"volume {volume.name}: hostPath {path} does not exist")
        return
    if volume.persistent_volume_claim is not None:
        raise BadPod(
            f"volume {volume.name}: persistentVolumeClaim is not served on one machine; "
            "use emptyDir or hostPath"
        )
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o777)


def _write(place: Path, files: Sequence[File]) -> None:
    """Write a new generation, switch `..data` to it, remove the one before."""
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    data = place / "..data"
    old = place / os.readlink(data) if data.is_symlink() else None
    number = int(old.name.removeprefix("..v")) + 1 if old is not None else 1
    new = place / f"..v{number}"
    new.mkdir()
    tops: set[str] = set()
    for file in files:
        relative = Path(os.path.normpath(file.path))
        if relative.is_absolute() or ".." in relative.parts:
            raise BadPod(f"volume {place.name}: path {file.path} leads out of the volume")
        target = new / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode | 0o400)
        tops.add(relative.parts[0])
    switch = place / "..switch"
    switch.unlink(missing_ok=True)
    switch.symlink_to(new.name)
    switch.rename(data)
    for name in tops:
        link = place / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    for entry in place.iterdir():
        if not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
