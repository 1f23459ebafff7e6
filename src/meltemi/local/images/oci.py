"""Images as OCI layouts: a directory or a tar of one, checked by digest and unpacked.

There is no registry here; `skopeo copy`, `docker save` and `podman save` write layouts.
https://github.com/opencontainers/image-spec (image-layout, manifest, config, layer)
"""

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import msgspec

from meltemi.local.images.unpack import BadImage, Unpacked, unpack

_MOST_JSON = 4 << 20
_CHUNK = 1 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Json = dict[str, Any]


class Contents(msgspec.Struct, frozen=True):
    """An unpacked image, and what its config says to run."""

    root: Path
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    directory: str
    uid: int
    gid: int


class _Layout:
    """The files of a layout, in a directory or in an archive."""

    def __init__(self, path: Path, archive: tarfile.TarFile | None) -> None:
        self._path = path
        self._archive = archive

    def open(self, name: str) -> IO[bytes]:
        """Raises BadImage."""
        try:
            if self._archive is None:
                return (self._path / name).open("rb")
            found = self._archive.extractfile(name)
        except (OSError, KeyError) as error:
            raise BadImage(f"{self._path}: {name} is missing") from error
        if found is None:
            raise BadImage(f"{self._path}: {name} is no file")
        return found

    def json(self, name: str) -> Json:
        with self.open(name) as file:
            return _decoded(file.read(_MOST_JSON), f"{self._path}: {name}")

    def blob(self, descriptor: Json) -> IO[bytes]:
        """A blob that is what its digest and size say. Raises BadImage."""
        algorithm, _, digest = str(descriptor.get("digest")).partition(":")
        if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BadImage(f"{self._path}: digest {descriptor.get('digest')} is no sha256")
        file = self.open(f"blobs/sha256/{digest}")
        found, size = hashlib.sha256(), 0
        while data := file.read(_CHUNK):
            found.update(data)
            size += len(data)
        if found.hexdigest() != digest or size != descriptor.get("size"):
            file.close()
            raise BadImage(
                f"{self._path}: blob sha256:{digest} is not what its name and size say; the image "
                "is damaged, or somebody changed it"
            )
        file.seek(0)
        return file

    def described(self, descriptor: Json) -> Json:
        with self.blob(descriptor) as file:
            return _decoded(file.read(_MOST_JSON), f"{self._path}: {descriptor['digest']}")


def _decoded(data: bytes, where: str) -> Json:
    try:
        return msgspec.json.decode(data, type=Json)
    except msgspec.DecodeError as error:
        raise BadImage(f"{where}: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[_Layout]:
    archive: AbstractContextManager[tarfile.TarFile | None] = nullcontext()
    try:
        if path.is_file():
            archive = tarfile.open(path)  # noqa: SIM115
        with archive as found:
            layout = _Layout(path, found)
            if layout.json("oci-layout").get("imageLayoutVersion") != "1.0.0":
                raise BadImage(f"{path}: its imageLayoutVersion is not 1.0.0")
            yield layout
    except (tarfile.TarError, OSError) as error:
        raise BadImage(f"{path}: {error}") from error


def add(path: Path, store: Path) -> Contents:
    """Check the one image of a layout for this machine, and unpack it below `store`.

    Raises BadImage; nothing is left of an image that is refused.
    """
    with _opened(path) as layout:
        descriptor = _chosen(layout, layout.json("index.json"))
        manifest = layout.described(descriptor)
        config = layout.described(manifest["config"])
        root = store / str(descriptor["digest"]).partition(":")[2]
        store.mkdir(mode=0o700, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=store))
        try:
            done = _unpacked(layout, manifest, config, made)
            if root.exists():
                # Containers may have it as their root; it goes when the node starts next.
                root.rename(Path(tempfile.mkdtemp(prefix=".old-", dir=store)) / root.name)
            made.rename(root)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    run = config.get("config") or {}
    pairs = (text.partition("=") for text in run.get("Env") or ())
    return Contents(
        root=root,
        entrypoint=tuple(run.get("Entrypoint") or ()),
        command=tuple(run.get("Cmd") or ()),
        env={name: value for name, _, value in pairs},
        directory=run.get("WorkingDir") or "",
        uid=done.uid,
        gid=done.gid,
    )


def _chosen(layout: _Layout, index: Json) -> Json:
    """The manifest for this machine. Raises BadImage."""
    wanted = ("linux", _ARCHITECTURES.get(os.uname().machine, os.uname().machine))
    found: list[Json] = []
    others: list[Json] = []
    for descriptor in index.get("manifests") or ():
        platform = descriptor.get("platform") or {}
        place = (platform.get("os", wanted[0]), platform.get("architecture", wanted[1]))
        (found if place == wanted else others).append(descriptor)
    if len(found) != 1:
        shown = ", ".join(str(d.get("platform") or d.get("digest")) for d in [*found, *others])
        raise BadImage(f"one image for {'/'.join(wanted)} is needed, there are: {shown or 'none'}")
    if "index" in str(found[0].get("mediaType")) or "list" in str(found[0].get("mediaType")):
        return _chosen(layout, layout.described(found[0]))
    return dict(found[0])


def _unpacked(layout: _Layout, manifest: Json, config: Json, root: Path) -> Unpacked:
    layers = manifest.get("layers") or []
    plain = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(plain) != len(layers):
        raise BadImage(f"the config tells of {len(plain)} layers, the manifest of {len(layers)}")
    root.chmod(0o755)
    blobs: list[IO[bytes]] = []
    try:
        for layer in layers:
            blobs.append(_on_disk(layout.blob(layer)))
        user = str((config.get("config") or {}).get("User") or "")
        return unpack(root, list(zip(blobs, plain, strict=True)), user)
    finally:
        for blob in blobs:
            blob.close()


def _on_disk(blob: IO[bytes]) -> IO[bytes]:
    """A layer inside an archive shares its file's position with others: it gets its own file."""
    if isinstance(blob, io.BufferedReader) and not isinstance(blob, tarfile.ExFileObject):
        return blob
    with blob:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        shutil.copyfileobj(blob, copy, _CHUNK)
        copy.seek(0)
        return copy
