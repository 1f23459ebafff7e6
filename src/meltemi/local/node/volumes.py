"""Volumes: directories on the machine, filled from objects and kept current.

Files of ConfigMaps, Secrets, tokens and the downward API live behind a link `..data` that is
switched in one step, as kubelets do it, so a reader never sees half of an update.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from meltemi.local.node.environment import Environment, quantity
from meltemi.local.node.errors import BadPod, VolumeMissing
from meltemi.local.node.podspec import Container, HostPath, Pod, Volume, VolumeMount
from meltemi.local.node.volume_files import File, Sources

Tmpfs = Callable[[str, str], Awaitable[None]]
"""Mounts a file system in memory on a directory (path, options); no options take it away."""
FindClaim = Callable[[str, str], Path | None]
"""(namespace, claim) to its directory; None while it is not bound."""

_SET_GROUP = 0o2000
_MEMORY_SHARE = 2
"""Memory for an emptyDir in memory without a limit: this part of the machine's."""


class Owner(msgspec.Struct, frozen=True):
    """Who reads a pod's volumes."""

    uid: int | None = None
    """The one user of all containers, if there is one."""
    gid: int | None = None
    """fsGroup."""


class Volumes:
    """The volumes of one pod."""

    def __init__(
        self,
        directory: Path,
        *,
        sources: Sources,
        environment: Environment,
        owner: Owner,
        tmpfs: Tmpfs,
        claims: FindClaim,
    ) -> None:
        self._directory = directory
        self._sources = sources
        self._environment = environment
        self._owner = owner
        self._tmpfs = tmpfs
        self._claims = claims
        self._written: dict[str, Sequence[File]] = {}
        self._made: dict[str, Path] = {}
        self._in_memory: list[Path] = []

    async def prepare(self, pod: Pod) -> None:
        """Make and fill every volume, or bring it up to date.

        Raises VolumeMissing, BadPod, KubeError, OSError.
        """
        for volume in pod.spec.volumes:
            place = self._directory / volume.name
            try:
                files = await self._sources.files(pod, volume, self._environment)
            except VolumeMissing as error:
                raise VolumeMissing(f'volume "{volume.name}": {error}') from error
            if files is None:
                if volume.name not in self._made:
                    self._made[volume.name] = await self._make(pod, volume, place)
            elif self._written.get(volume.name) != files:
                await asyncio.to_thread(_write, place, files, self._owner)
                self._written[volume.name] = files
                self._made[volume.name] = place

    async def _make(self, pod: Pod, volume: Volume, place: Path) -> Path:
        """The directory of a volume with content of its own."""
        if volume.unserved:
            raise BadPod(
                f'volume "{volume.name}": {volume.unserved} is not served on one machine; use '
                "emptyDir, hostPath or persistentVolumeClaim"
            )
        if volume.host_path is not None:
            return await asyncio.to_thread(_host_path, volume.name, volume.host_path)
        if volume.persistent_volume_claim is not None:
            name = volume.persistent_volume_claim.claim_name
            found = self._claims(pod.metadata.namespace, name)
            if found is None:
                raise VolumeMissing(
                    f'volume "{volume.name}": PersistentVolumeClaim "{name}" not found in '
                    f"namespace {pod.metadata.namespace}; the pod starts once it is there"
                )
            await asyncio.to_thread(_make_directory, found, self._owner)
            return found
        await asyncio.to_thread(_make_directory, place, self._owner)
        if volume.empty_dir is not None and volume.empty_dir.medium == "Memory":
            size = size_limit(volume) or _memory() // _MEMORY_SHARE
            options = f"size={size},mode={_mode(self._owner):o},gid={self._owner.gid or 0}"
            await self._tmpfs(str(place), options)
            self._in_memory.append(place)
        return place

    def mount(self, container: Container, mount: VolumeMount, sub_path: str) -> Path:
        """What of the machine a container sees at a mount. Raises BadPod."""
        base = self._made.get(mount.name)
        if base is None:
            raise BadPod(
                f"container {container.name}: volumeMounts: no volume is named {mount.name}"
            )
        if not sub_path:
            return base
        lexical = Path(os.path.normpath(base / sub_path))
        place = lexical.resolve()
        # A link in the volume is the container's own work: it must not lead to the machine's files.
        if not lexical.is_relative_to(base) or not place.is_relative_to(base.resolve()):
            raise BadPod(f"container {container.name}: subPath {sub_path} leads out of the volume")
        if not place.exists():
            _make_directory(place, self._owner)
        return place

    def overfull(self, pod: Pod) -> tuple[str, str] | None:
        """(volume, limit) of an emptyDir that holds more than its sizeLimit."""
        for volume in pod.spec.volumes:
            limit = size_limit(volume)
            if limit and volume.name in self._made and _used(self._made[volume.name]) > limit:
                assert volume.empty_dir is not None
                return volume.name, str(volume.empty_dir.size_limit)
        return None

    async def remove(self) -> None:
        """Free the memory of volumes that live there."""
        for place in self._in_memory:
            with contextlib.suppress(OSError):
                await self._tmpfs(str(place), "")
        self._in_memory.clear()


def size_limit(volume: Volume) -> int:
    """Bytes that an emptyDir may hold; 0 is without limit. Raises BadPod."""
    limit = volume.empty_dir.size_limit if volume.empty_dir is not None else None
    return int(quantity(str(limit))) if limit is not None else 0


def _used(place: Path) -> int:
    total = 0
    for directory, _, files in os.walk(place):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _make_directory(place: Path, owner: Owner) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if owner.gid is not None:
        os.chown(place, -1, owner.gid)
    place.chmod(_mode(owner))


def _mode(owner: Owner) -> int:
    return 0o777 if owner.gid is None else 0o777 | _SET_GROUP


def _host_path(name: str, wanted: HostPath) -> Path:
    """Check a hostPath, and make it where its type asks for that. Raises BadPod."""
    path = Path(wanted.path)
    if wanted.type == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif wanted.type == "FileOrCreate" and not path.exists():
        path.touch()
    if not path.exists():
        raise BadPod(
            f'volume "{name}": hostPath {path} does not exist on this machine; make it, or give '
            "the type DirectoryOrCreate"
        )
    checks = {
        "Directory": path.is_dir,
        "DirectoryOrCreate": path.is_dir,
        "File": path.is_file,
        "FileOrCreate": path.is_file,
        "Socket": path.is_socket,
        "CharDevice": path.is_char_device,
        "BlockDevice": path.is_block_device,
    }
    check = checks.get(wanted.type)
    if check is not None and not check():
        raise BadPod(f'volume "{name}": hostPath {path} is not of type {wanted.type}')
    return path


def _write(place: Path, files: Sequence[File], owner: Owner) -> None:
    """Write a new generation, switch `..data` to it, remove the one before."""
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    data = place / "..data"
    old = place / os.readlink(data) if data.is_symlink() else None
    number = int(old.name.removeprefix("..v")) + 1 if old is not None else 1
    new = place / f"..v{number}"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    tops: set[str] = set()
    for file in files:
        relative = Path(os.path.normpath(file.path))
        if relative.is_absolute() or ".." in relative.parts:
            raise BadPod(f"volume {place.name}: path {file.path} leads out of the volume")
        _write_file(new / relative, file, owner)
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


def _write_file(target: Path, file: File, owner: Owner) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.content)
    mode = file.mode | 0o400
    if owner.gid is not None:
        os.chown(target, -1, owner.gid)
        mode |= 0o040
    elif file.is_private and owner.uid:
        os.chown(target, owner.uid, -1)
    elif file.is_private and owner.uid is None:
        mode |= 0o044
    target.chmod(mode)
