"""Limits of memory, CPU and processes through control groups, where the machine lets us.

Version 2 and the separate hierarchies of version 1 are both served. A container's process enters
its groups itself, before it gives up its rights; without usable groups nothing is limited, and
`unlimited` says so.
https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

import contextlib
import hashlib
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

_MOUNT = Path("/sys/fs/cgroup")
_PERIOD = 100_000
"""Microseconds in which a CPU quota is given out (the kubelet's)."""
_WANTED = ("memory", "cpu", "pids")
_MOST_PIDS = 4096
_CORE_SHARES = 1024
"""CPU shares of version 1 for one core's request."""


class Wanted(msgspec.Struct, frozen=True):
    """What a container may use."""

    memory: int = 0
    """Bytes; 0 is without limit."""
    cpu: float = 0.0
    """Cores; 0 is without limit."""
    cpu_request: float = 0.0
    """Cores it gets when others want them too."""


class Cgroups:
    """The groups of one node's containers."""

    def __init__(
        self, places: Mapping[str, Path], *, is_unified: bool, unlimited: str = ""
    ) -> None:
        """`places`: controller to the directory where groups are made."""
        self._places = places
        self._is_unified = is_unified
        self.unlimited = unlimited
        """Why nothing is limited; empty where it is."""
        self._killed: dict[str, int] = {}

    def make(self, uid: str, container: str, wanted: Wanted) -> tuple[str, ...]:
        """Make a container's groups anew: the files into which its process writes itself."""
        name, groups = _name(uid, container), set[Path]()
        for controller, place in self._places.items():
            settings = _settings(controller, wanted, self._is_unified)
            if not settings:
                continue
            group = place / name
            if group not in groups:
                with contextlib.suppress(OSError):
                    group.rmdir()
                group.mkdir(exist_ok=True)
                groups.add(group)
            for file, value in settings:
                # Some files exist only where swap is accounted.
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    (group / file).write_text(value)
        self._killed[name] = self._kills(name)
        return tuple(str(group / "cgroup.procs") for group in sorted(groups))

    def ran_out_of_memory(self, uid: str, container: str) -> bool:
        """Whether the kernel ended something in the group for want of memory."""
        name = _name(uid, container)
        return self._kills(name) > self._killed.get(name, 0)

    def remove(self, uid: str, containers: Sequence[str]) -> None:
        """Remove the groups of a pod that has ended."""
        for container in containers:
            name = _name(uid, container)
            self._killed.pop(name, None)
            for place in self._directories():
                with contextlib.suppress(OSError):
                    (place / name).rmdir()

    def clean(self) -> None:
        """Remove the groups of containers that are no more."""
        for place in self._directories():
            for group in place.iterdir():
                if group.is_dir():
                    with contextlib.suppress(OSError):
                        group.rmdir()

    def close(self) -> None:
        """Remove everything, at the node's end."""
        self.clean()
        for place in self._directories():
            with contextlib.suppress(OSError):
                place.rmdir()

    def _directories(self) -> Sequence[Path]:
        return sorted(set(self._places.values()))

    def _kills(self, name: str) -> int:
        if "memory" not in self._places:
            return 0
        file = "memory.events" if self._is_unified else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self._places["memory"] / name / file).read_text().splitlines():
                word, _, count = line.partition(" ")
                if word == "oom_kill":
                    return int(count)
        return 0


def _name(uid: str, container: str) -> str:
    return f"{uid}-{container}"


def _settings(controller: str, wanted: Wanted, is_unified: bool) -> Sequence[tuple[str, str]]:
    """(file, value) for one controller."""
    match controller:
        case "memory" if wanted.memory and is_unified:
            limit = str(wanted.memory)
            # The container ends as a whole, not just the process that asked for too much.
            return [("memory.max", limit), ("memory.swap.max", "0"), ("memory.oom.group", "1")]
        case "memory" if wanted.memory:
            limit = str(wanted.memory)
            return [("memory.limit_in_bytes", limit), ("memory.memsw.limit_in_bytes", limit)]
        case "cpu" if wanted.cpu or wanted.cpu_request:
            return _cpu_settings(wanted, is_unified)
        case "pids":
            return [("pids.max", str(_MOST_PIDS))]
    return []


def _cpu_settings(wanted: Wanted, is_unified: bool) -> Sequence[tuple[str, str]]:
    shares = max(2, min(int(wanted.cpu_request * _CORE_SHARES), 262144))
    quota = max(1000, int(wanted.cpu * _PERIOD))
    if is_unified:
        weight = 1 + (shares - 2) * 9999 // 262142
        limit = [("cpu.max", f"{quota} {_PERIOD}")] if wanted.cpu else []
        return [("cpu.weight", str(weight)), *limit]
    limit = [("cpu.cfs_quota_us", str(quota))] if wanted.cpu else []
    return [("cpu.shares", str(shares)), *limit]


def find(data: Path, mount: Path = _MOUNT, membership: Path = Path("/proc/self/cgroup")) -> Cgroups:
    """The groups this process may make for the mesh that lives in `data`."""
    own = f"meltemi-{hashlib.blake2b(str(data).encode(), digest_size=4).hexdigest()}"
    is_unified = (mount / "cgroup.controllers").exists()
    try:
        present = membership.read_text().splitlines()
        find_places = _unified if is_unified else _separate
        places = find_places(own, mount, present)
    except OSError as error:
        return Cgroups({}, is_unified=True, unlimited=f"{error.filename}: {error.strerror}")
    missing = [c for c in _WANTED if c not in places]
    unlimited = f"the machine's control groups do not hand on {', '.join(missing)}"
    found = Cgroups(places, is_unified=is_unified, unlimited=unlimited if missing else "")
    found.clean()
    return found


def _unified(own: str, mount: Path, present: Sequence[str]) -> Mapping[str, Path]:
    """A group whose controllers we may hand on; beside our own, or at the top. Raises OSError."""
    ours = next((line[3:].lstrip("/") for line in present if line.startswith("0::")), "")
    failure: OSError = FileNotFoundError(2, "no control group can be made", str(mount))
    for parent in ((mount / ours).parent, mount):
        if not parent.is_relative_to(mount):
            continue
        try:
            if parent == mount:
                _hand_on(mount, _WANTED)
            return delegated(parent / own, _WANTED)
        except OSError as error:
            failure = error
    raise failure


def _hand_on(group: Path, wanted: Sequence[str]) -> None:
    """Let groups below have what this one has; one by one, for one that is not there fails all."""
    present = (group / "cgroup.controllers").read_text().split()
    enabled = (group / "cgroup.subtree_control").read_text().split()
    for controller in wanted:
        if controller in present and controller not in enabled:
            # With processes in it a group hands on nothing, but for the top of the machine.
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{controller}")


def delegated(place: Path, wanted: Sequence[str]) -> Mapping[str, Path]:
    """Make a group of version 2 whose groups are limited, as far as the one above lets it.

    It never holds processes itself, or the kernel would refuse. Raises OSError.
    """
    above = place.parent / "cgroup.subtree_control"
    enabled = above.read_text().split()
    found = [controller for controller in wanted if controller in enabled]
    if not found:
        raise PermissionError(1, f"hands on none of {', '.join(wanted)}", str(above))
    place.mkdir(exist_ok=True)
    try:
        (place / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in found))
        _try_to_enter(place)
    except OSError:
        with contextlib.suppress(OSError):
            place.rmdir()
        raise
    return dict.fromkeys(found, place)


def _separate(own: str, mount: Path, present: Sequence[str]) -> Mapping[str, Path]:
    """A group below our own in each hierarchy of version 1. Raises OSError."""
    places: dict[str, Path] = {}
    for line in present:
        _, controllers, ours = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _WANTED:
                place = mount / controller / ours.lstrip("/") / own
                place.mkdir(exist_ok=True)
                places[controller] = place
    if not places:
        raise FileNotFoundError(2, "no control group limits memory or CPU", str(mount))
    for place in places.values():
        _try_to_enter(place)
    if "cpu" in places:
        cores = os.cpu_count() or 1
        (places["cpu"] / "cpu.shares").write_text(str(2 * cores * _CORE_SHARES))
    return places


def _try_to_enter(place: Path) -> None:
    """Let a process enter a group below and end there. Raises OSError."""
    probe = place / "probe"
    probe.mkdir(exist_ok=True)
    try:
        script = f'echo $$ > "{probe}/cgroup.procs"'
        result = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=False)
        if result.returncode:
            raise PermissionError(1, "a process may not enter a control group", str(probe))
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()
