"""The few Linux calls that Python 3.11 does not offer: namespaces, mounts, capabilities."""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
_MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind a descriptor of /proc/PID/ns or /run/netns."""
    _check(_libc.setns(fd, kind), "setns")


def enter_path(path: str, kind: int) -> None:
    """Enter the namespace that a file names."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, kind)
    finally:
        os.close(fd)


def sethostname(name: str) -> None:
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), f"hostname {name}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError that names the target."""
    result = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    _check(result, f"mount {target}")


def unmount(target: str) -> None:
    """umount2(2), at once for those who come, later for those who use it."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")


def bind(source: str, target: str, *, readonly: bool = False) -> None:
    """Show a file or a tree at a second place."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if readonly:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | _locked_flags(target))


def _locked_flags(path: str) -> int:
    """Flags that a user namespace may not drop when it remounts: they must be repeated."""
    kept = 0
    flags = os.statvfs(path).f_flag
    for bit in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC, os.ST_NOATIME, os.ST_RELATIME):
        if flags & bit:
            kept |= _MOUNT_FLAG[bit]
    return kept


_MOUNT_FLAG = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: 8,
    os.ST_NOATIME: 1024,
    os.ST_RELATIME: 1 << 21,
}


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the thread that forked this process ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def no_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def keep_capabilities(kept: frozenset[int]) -> None:
    """Give up every capability but these, for good, children included."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    mask = sum(1 << capability for capability in kept)
    if os.geteuid() != 0:
        mask = 0
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
