"""Unpacks layers into a directory that the kernel holds as the root: no path leads out of it.

A child process enters the directory by chroot before it reads the first byte of a layer, so links
of one layer lead the next nowhere else, whatever they say. What is written is what the layers'
digests of their plain form (`diff_ids`) say, or nothing is kept.
"""

import gzip
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from typing import IO, cast

import msgspec

from meltemi.local.node import syscalls

_MOST_ENTRIES = 1_000_000
_MOST_BYTES = 16 << 30
_CHUNK = 1 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_PLACES = ("proc", "sys", "dev", "etc")
"""Directories in which the node mounts or writes: they must be none but the image's own."""

Layers = Sequence[tuple[IO[bytes], str]]
"""Open blobs, each with the digest of its plain form."""


class BadImage(Exception):
    """An image cannot be used; the text says what is wrong with it."""


class Unpacked(msgspec.Struct, frozen=True):
    """What the child has to say."""

    failure: str = ""
    uid: int = 0
    gid: int = 0


def unpack(root: os.PathLike[str], layers: Layers, user: str) -> Unpacked:
    """Fill a directory; who `user` is by the image's own files. Raises BadImage."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        said = Unpacked("it could not be unpacked")
        try:
            owns_all = os.geteuid() == 0
            _enter(root)
            said = _filled(layers, user, owns_all=owns_all)
        except (BadImage, OSError, tarfile.TarError, EOFError, ValueError) as error:
            said = Unpacked(str(error) or type(error).__name__)
        finally:
            os.write(write, msgspec.json.encode(said))
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    said = msgspec.json.decode(data, type=Unpacked) if data else Unpacked("unpacking was killed")
    if said.failure:
        raise BadImage(said.failure)
    return said


def _enter(root: os.PathLike[str]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"),
                           ("gid_map", f"0 {gid} 1")):  # fmt: skip
            with open(f"/proc/self/{file}", "w", encoding="ascii") as out:
                out.write(text)
    os.chroot(root)
    os.chdir("/")


def _filled(layers: Layers, user: str, *, owns_all: bool) -> Unpacked:
    """`owns_all`: files may belong to others; without root there is one user only."""
    budget = _Budget()
    for number, (blob, digest) in enumerate(layers):
        magic = blob.read(4)
        blob.seek(0)
        if magic == b"\x28\xb5\x2f\xfd":
            raise BadImage(f"layer {number} is compressed by zstd; write the image with gzip")
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=blob)) if magic[:2] == b"\x1f\x8b" else blob
        hashed = _Hashed(plain, budget)
        with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="r|") as tar:
            _apply(tar, budget, owns_all=owns_all)
        while hashed.read(_CHUNK):
            continue
        if f"sha256:{hashed.digest.hexdigest()}" != digest:
            raise BadImage(f"layer {number} does not hold what the image's config says")
    for name in _PLACES:
        if os.path.islink(f"/{name}"):
            raise BadImage(f"/{name} is a link; it must be a directory")
        os.makedirs(f"/{name}", exist_ok=True)
    return Unpacked("", *_ids(user))


class _Budget:
    """What an image may hold at most."""

    def __init__(self) -> None:
        self._entries, self._bytes = _MOST_ENTRIES, _MOST_BYTES

    def take(self, entries: int, size: int) -> None:
        self._entries -= entries
        self._bytes -= size
        if self._entries < 0 or self._bytes < 0:
            raise BadImage(f"it holds more than {_MOST_BYTES >> 30} GiB or {_MOST_ENTRIES} files")


class _Hashed:
    """A stream that knows the digest of what was read from it."""

    def __init__(self, source: IO[bytes], budget: _Budget) -> None:
        self._source = source
        self._budget = budget
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._budget.take(0, len(data))
        self.digest.update(data)
        return data


def _apply(tar: tarfile.TarFile, budget: _Budget, *, owns_all: bool) -> None:
    """One layer over those before it."""
    made: set[str] = set()
    for member in tar:
        budget.take(1, 0)
        path = _place(member.name)
        parent, name = os.path.split(path)
        if path == "/":
            continue
        os.makedirs(parent, exist_ok=True)
        if name == _OPAQUE:
            for below in os.listdir(parent):
                if os.path.join(parent, below) not in made:
                    _remove(os.path.join(parent, below))
        elif name.startswith(_WHITEOUT):
            _remove(_place(os.path.join(parent, name.removeprefix(_WHITEOUT))))
        else:
            _make(tar, member, path)
            _dress(member, path, owns_all=owns_all)
            made.add(path)
            while parent not in made and parent != "/":
                made.add(parent)
                parent = os.path.dirname(parent)


def _place(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadImage(f"the path {name} leads out of the image")
    return "/" + "/".join(parts)


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    is_directory = os.path.isdir(path) and not os.path.islink(path)
    if not (member.isdir() and is_directory):
        _remove(path)
    if member.isdir():
        os.makedirs(path, exist_ok=True)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(_place(member.linkname), path, follow_symlinks=False)
    elif member.isfifo():
        os.mkfifo(path)
    elif member.isreg():
        source = tar.extractfile(member)
        assert source is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)


def _dress(member: tarfile.TarInfo, path: str, *, owns_all: bool) -> None:
    """Owner, mode, time. Devices of an image are not for processes of this machine."""
    if member.islnk() or not os.path.lexists(path):
        return
    if owns_all:
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        os.chmod(path, stat.S_IMODE(member.mode))
        os.utime(path, (member.mtime, member.mtime))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _ids(user: str) -> tuple[int, int]:
    """(uid, gid) of `user`, `user:group`, by name or number. Raises BadImage."""
    name, _, group = user.partition(":")
    if not name:
        return 0, 0
    row = _row("/etc/passwd", name, 4)
    if row is None and not name.isdecimal():
        raise BadImage(f"the user {name} is not in the image's /etc/passwd")
    uid, gid = (int(row[2]), int(row[3])) if row is not None else (int(name), 0)
    if group:
        found = _row("/etc/group", group, 3)
        if found is None and not group.isdecimal():
            raise BadImage(f"the group {group} is not in the image's /etc/group")
        gid = int(found[2]) if found is not None else int(group)
    return uid, gid


def _row(path: str, name: str, least: int) -> list[str] | None:
    """The line of a name or number in a file like /etc/passwd."""
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8", errors="replace") as file:
        rows = [line.rstrip("\n").split(":") for line in file]
    return next((r for r in rows if len(r) >= least and name in (r[0], r[2])), None)
