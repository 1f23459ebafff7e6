"""Is this machine able to run a mesh? And without root: the one user namespace it runs in."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from meltemi.local.node import syscalls

_TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "setpriv": "util-linux"}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class SandboxError(Exception):
    """The machine cannot run a mesh; the text is one sentence with the remedy."""


def check_machine() -> None:
    """Raises SandboxError that names what is missing and how to get it."""
    if sys.platform != "linux":
        raise SandboxError("a local mesh needs Linux: elsewhere, run it in a virtual machine")
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool, path=path) is None]
    if missing:
        names = " ".join(missing)
        raise SandboxError(
            f"{names} is not installed: install it (Debian: apt-get install {names})"
        )
    if os.geteuid() != 0:
        _check_user_namespaces()


def _check_user_namespaces() -> None:
    """Try it in a child: whether the kernel lets this user have namespaces of its own."""
    wanted = ("unshare", "--user", "--map-root-user", "--net", "--mount", "true")
    try:
        result = subprocess.run(wanted, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"user namespaces cannot be tried: {error}; run as root") from error
    if result.returncode == 0:
        return
    remedy = "run as root (sudo meltemi up)"
    for setting, value in (
        ("kernel.apparmor_restrict_unprivileged_userns", "0"),
        ("kernel.unprivileged_userns_clone", "1"),
    ):
        file = Path("/proc/sys") / setting.replace(".", "/")
        if file.exists() and file.read_text().strip() != value:
            remedy += f", or allow them with: sysctl -w {setting}={value}"
    raise SandboxError(f"this kernel does not let a user create namespaces: {remedy}")


def enter() -> None:
    """Move this process into new user, network and mount namespaces, as their root.

    Call it before threads exist. Processes keep their numbers, so that everyone outside can name
    them; each container gets a process namespace of its own later. Raises SandboxError.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", "/run", "tmpfs", data="mode=0755")
        os.mkdir("/run/netns")
        loopback_up()
    except OSError as error:
        raise SandboxError(
            f"this kernel does not let a user create namespaces ({error}): run as root"
        ) from error


def loopback_up() -> None:
    """`ip link set lo up`, by the ioctl, since /run and PATH may say little here."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH22x", b"lo", 1))
