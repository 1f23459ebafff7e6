"""A container's root: the machine's directories, each under a layer of its own.

The machine's tree is never written to. Each top-level directory is an overlay whose upper layer is
in memory, because a user namespace may not overlay `/` itself (it holds mounts of others); where
an overlay cannot be had the directory is shown read-only. What a mount or file needs is made in
the upper layer beforehand, so directories of other users are no obstacle.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import meltemi
from meltemi.local.node import syscalls
from meltemi.local.node.process import Mount, Root

_FRESH = ("run", "tmp")
"""Directories that start empty in a container."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs")
"""Parts of /proc through which a root user could change the machine."""
_MOST_LINKS = 40
_SPECIAL = frozenset({*_FRESH, "proc", "sys", "dev", "lost+found"})


def enter_root(root: Root) -> None:
    """Build the tree and make it this process's root. Raises OSError.

    The caller is in a mount namespace of its own, in which nothing propagates.
    """
    base = root.layer
    os.makedirs(base, exist_ok=True)
    syscalls.mount("tmpfs", base, "tmpfs", data="mode=0755")
    new, upper, work = (f"{base}/{name}" for name in ("root", "upper", "work"))
    for path in (new, upper, work):
        os.mkdir(path)
    hidden = tuple(os.path.realpath(path) for path in root.hidden)
    _prepare(upper, root, hidden)
    if root.base:
        # One overlay shows all of it: nothing of others is mounted in there.
        _mount_overlay(root.base, new, upper, work)
    else:
        _show_machine(new, upper, work)
    _show_special(new, fresh=() if root.base else _FRESH)
    for path in hidden:
        if os.path.isdir(new + path):
            syscalls.mount("tmpfs", new + path, "tmpfs", data="mode=0755")
    for path, text in root.files.items():
        place = _real(path, root.base)
        if not root.base and (_top(place) in _SPECIAL or _is_under(place, hidden)):
            _write(new + place, text)
    for mount in sorted(root.mounts, key=lambda m: m.target):
        _bind(new, mount, root.base)
    os.chroot(new)
    os.chdir("/")
    if root.readonly and root.base:
        syscalls.mount("", "/", flags=syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
    elif root.readonly:
        volumes = {mount.target.rstrip("/") for mount in root.mounts}
        for name in os.listdir("/"):
            if name not in _SPECIAL and f"/{name}" not in volumes and os.path.ismount(f"/{name}"):
                with contextlib.suppress(OSError):
                    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY
                    syscalls.mount("", f"/{name}", flags=flags)


def _prepare(upper: str, root: Root, hidden: Iterable[str]) -> None:
    """Make in the upper layer what mounts and files need, before it is mounted."""
    for mount in root.mounts:
        place = _real(mount.target, root.base)
        if _top(place) not in _SPECIAL and not _is_under(place, hidden):
            exists = os.path.exists(root.base + place)
            _make_parents(upper, root.base, place)
            _make_target(upper + place, os.path.isdir(mount.source), exists=exists)
    for path, text in root.files.items():
        place = _real(path, root.base)
        if root.base or (_top(place) not in _SPECIAL and not _is_under(place, hidden)):
            _make_parents(upper, root.base, place)
            _write(upper + place, text)
    for path, text in root.executables.items():
        place = _real(path, root.base)
        _make_parents(upper, root.base, place)
        _write(upper + place, text)
        os.chmod(upper + place, 0o755)


def _make_parents(upper: str, base: str, path: str) -> None:
    """Directories in the upper layer, with the owners and modes of those that they cover."""
    parents = Path(path).parents
    for parent in list(parents)[-2::-1]:
        made = f"{upper}{parent}"
        if os.path.lexists(made):
            continue
        os.mkdir(made)
        with contextlib.suppress(OSError):
            there = os.stat(f"{base}{parent}")
            os.chown(made, there.st_uid, there.st_gid)
            os.chmod(made, there.st_mode & 0o7777)


def _show_machine(new: str, upper: str, work: str) -> None:
    for entry in os.scandir("/"):
        target = f"{new}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir() and entry.name not in _SPECIAL:
            os.mkdir(target)
            _overlay(entry.path, target, f"{upper}/{entry.name}", f"{work}/{entry.name}")
    for name in os.listdir(upper):
        if not os.path.lexists(f"{new}/{name}"):
            _make_target(f"{new}/{name}", os.path.isdir(f"{upper}/{name}"), exists=False)
            syscalls.bind(f"{upper}/{name}", f"{new}/{name}")


def _overlay(lower: str, target: str, upper: str, work: str) -> None:
    os.makedirs(upper, exist_ok=True)
    mode = os.stat(lower).st_mode & 0o7777
    os.chmod(upper, mode | 0o700)
    os.makedirs(work)
    try:
        _mount_overlay(lower, target, upper, work)
    except OSError:
        syscalls.bind(lower, target)


def _mount_overlay(lower: str, target: str, upper: str, work: str) -> None:
    """Raises OSError."""
    data = f"lowerdir={lower},upperdir={upper},workdir={work}"
    if os.path.exists("/proc/self/uid_map") and not _is_first_user_namespace():
        data += ",userxattr"
    syscalls.mount("overlay", target, "overlay", data=data)


def _is_first_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _show_special(new: str, *, fresh: Sequence[str]) -> None:
    for name in ("proc", "sys", "dev", *fresh):
        os.makedirs(f"{new}/{name}", exist_ok=True)
    try:
        syscalls.mount("proc", f"{new}/proc", "proc")
    except OSError:
        # A sandbox around us that hides parts of /proc forbids a new one.
        syscalls.bind("/proc", f"{new}/proc")
    for name in _READ_ONLY:
        with contextlib.suppress(OSError):
            syscalls.bind(f"{new}/proc/{name}", f"{new}/proc/{name}", readonly=True)
    syscalls.bind("/sys", f"{new}/sys")
    with contextlib.suppress(OSError):
        syscalls.bind(f"{new}/sys", f"{new}/sys", readonly=True)
    for name in fresh:
        syscalls.mount("tmpfs", f"{new}/{name}", "tmpfs", data="mode=0755")
    if fresh:
        os.chmod(f"{new}/tmp", 0o1777)
        _show_programs(new)
    _make_devices(f"{new}/dev")


def _show_programs(new: str) -> None:
    """Meltemi and its interpreter, which run the built-in images, where a fresh directory would
    hide them: a checkout under /tmp."""
    for path in sorted({sys.prefix, sys.base_prefix, str(Path(meltemi.__file__).parents[1])}):
        if _top(path) in _FRESH and not os.path.exists(new + path):
            os.makedirs(new + path)
            syscalls.bind(path, new + path, readonly=True)


def _make_devices(dev: str) -> None:
    """Only the harmless devices; a container's root user must not reach the machine's disks."""
    syscalls.mount("tmpfs", dev, "tmpfs", data="mode=0755")
    for name in _DEVICES:
        with open(f"{dev}/{name}", "wb"):
            pass
        with contextlib.suppress(OSError):
            syscalls.bind(f"/dev/{name}", f"{dev}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    syscalls.bind("/dev/pts", f"{dev}/pts")
    syscalls.mount("tmpfs", f"{dev}/shm", "tmpfs", data="mode=1777")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd"}
    links |= {name: f"/proc/self/fd/{n}" for n, name in enumerate(("stdin", "stdout", "stderr"))}
    for name, target in links.items():
        os.symlink(target, f"{dev}/{name}")


def _bind(new: str, mount: Mount, base: str) -> None:
    place = new + _real(mount.target, base)
    if not os.path.lexists(place):
        _make_target(place, os.path.isdir(mount.source), exists=False)
    syscalls.bind(mount.source, place, readonly=mount.readonly)


def _make_target(path: str, is_directory: bool, *, exists: bool) -> None:
    parent = path if is_directory else os.path.dirname(path)
    os.makedirs(parent, exist_ok=True)
    if not is_directory and not exists and not os.path.lexists(path):
        with open(path, "wb"):
            pass


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _real(path: str, base: str) -> str:
    """Where a path of the container leads, following the links there (/var/run to /run).

    The last part is kept as it is: a file that replaces a link replaces the link. Links of an image
    lead nowhere but within it.
    """
    parent, name = os.path.split(path.rstrip("/"))
    here, left, links = "/", parent.split("/")[::-1], 0
    while left:
        part = left.pop()
        place = os.path.join(here, part)
        if part in ("", "."):
            continue
        if part == "..":
            here = os.path.dirname(here)
        elif os.path.islink(base + place) and links < _MOST_LINKS:
            links += 1
            target = os.readlink(base + place)
            here = "/" if target.startswith("/") else here
            left += target.split("/")[::-1]
        else:
            here = place
    return os.path.join(here, name)


def _top(path: str) -> str:
    return path.split("/", 2)[1]


def _is_under(path: str, tops: Iterable[str]) -> bool:
    return any(path == top or path.startswith(top + "/") for top in tops)
