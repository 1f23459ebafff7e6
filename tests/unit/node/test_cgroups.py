"""Control groups: what is written for a container, and which groups may be made at all."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from meltemi.local.node.cgroups import Cgroups, Wanted, find

WANTED = Wanted(memory=1 << 26, cpu=0.5, cpu_request=0.25)
UNIFIED = {
    "memory.max": "67108864",
    "memory.swap.max": "0",
    "memory.oom.group": "1",
    "cpu.weight": "10",
    "cpu.max": "50000 100000",
    "pids.max": "4096",
}
SEPARATE = {
    "memory.limit_in_bytes": "67108864",
    "memory.memsw.limit_in_bytes": "67108864",
    "cpu.shares": "256",
    "cpu.cfs_quota_us": "50000",
    "pids.max": "4096",
}


def written(group: Path) -> Mapping[str, str]:
    return {path.name: path.read_text() for path in group.iterdir()}


@pytest.mark.parametrize(("unified", "expected"), [(True, UNIFIED), (False, SEPARATE)])
def test_limits_are_written_by_the_kernels_names(
    tmp_path: Path, unified: bool, expected: Mapping[str, str]
) -> None:
    groups = Cgroups(dict.fromkeys(("memory", "cpu", "pids"), tmp_path), is_unified=unified)
    files = groups.make("uid", "main", WANTED)
    assert files == (str(tmp_path / "uid-main" / "cgroup.procs"),)
    assert written(tmp_path / "uid-main") == expected
    kills = "memory.events" if unified else "memory.oom_control"
    assert not groups.ran_out_of_memory("uid", "main")
    (tmp_path / "uid-main" / kills).write_text("oom 1\noom_kill 2\n")
    assert groups.ran_out_of_memory("uid", "main")


def test_what_asks_for_nothing_is_bounded_in_processes_alone(tmp_path: Path) -> None:
    groups = Cgroups(dict.fromkeys(("memory", "cpu", "pids"), tmp_path), is_unified=True)
    groups.make("uid", "main", Wanted())
    assert written(tmp_path / "uid-main") == {"pids.max": "4096"}


class Tree:
    """A hierarchy of version 2 as plain files; the process is in /user/app."""

    def __init__(self, root: Path, controllers: str = "cpuset cpu io memory pids") -> None:
        self.root = root
        self.app = root / "user" / "app"
        self.app.mkdir(parents=True)
        self.membership = root / "membership"
        self.membership.write_text("0::/user/app\n")
        (root / "cgroup.controllers").write_text(controllers)
        for group in (root, self.app.parent, self.app):
            self.hand_on(group, "")

    def hand_on(self, group: Path, controllers: str) -> None:
        (group / "cgroup.subtree_control").write_text(controllers)

    def find(self) -> Cgroups:
        return find(Path("/data"), self.root, self.membership)

    def place(self, groups: Cgroups) -> Path:
        (file,) = groups.make("uid", "main", WANTED)
        return Path(file).parents[2]


def test_a_group_beside_our_own_is_used_where_it_is_handed_on(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.hand_on(tree.app.parent, "cpu memory pids")
    groups = tree.find()
    assert groups.unlimited == ""
    assert tree.place(groups) == tree.app.parent
    (own,) = (p for p in tree.app.parent.iterdir() if p.name.startswith("meltemi-"))
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert not (own / "cgroup.procs").exists(), "a group that hands on holds no process"


def test_the_top_is_next_and_what_it_lacks_is_named(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.hand_on(tree.root, "memory pids")
    (tree.root / "cgroup.controllers").write_text("memory pids")
    groups = tree.find()
    assert tree.place(groups) == tree.root
    assert groups.unlimited == "the machine's control groups do not hand on cpu"


def test_without_any_the_reason_names_the_file(tmp_path: Path) -> None:
    tree = Tree(tmp_path, controllers="hugetlb")
    groups = tree.find()
    assert groups.make("uid", "main", WANTED) == ()
    assert groups.unlimited == (
        f"{tree.root}/cgroup.subtree_control: hands on none of memory, cpu, pids"
    )
    assert find(Path("/data"), tmp_path / "none", tmp_path / "membership").unlimited


REAL = """
import os, pathlib, subprocess, sys
from meltemi.local.node import cgroups, syscalls
mount = pathlib.Path(sys.argv[1])
syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("none", str(mount), "cgroup2")
free = (mount / "cgroup.controllers").read_text().split()
if not free:
    sys.exit(77)
wanted = free[-1:]
before = (mount / "cgroup.subtree_control").read_text().split()
cgroups._hand_on(mount, wanted)
top, sleeper = mount / f"test-{os.getpid()}", None
try:
    assert dict(cgroups.delegated(top, wanted)) == {wanted[0]: top}
    assert not list(top.glob("probe"))
    (top / "inner").mkdir()
    assert list((top / "inner").glob(f"{wanted[0]}.*")), "the group below is limited"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (top / "cgroup.procs").write_text(str(sleeper.pid))
        raise SystemExit("a group that hands on took a process")
    except OSError:
        pass
    (top / "inner" / "cgroup.procs").write_text(str(sleeper.pid))
    cgroups._hand_on(top / "inner", wanted)
    try:
        cgroups.delegated(top / "inner" / "own", wanted)
        raise SystemExit("a group with processes handed on")
    except PermissionError as error:
        assert "hands on none" in str(error), error
finally:
    if sleeper is not None:
        sleeper.kill()
        sleeper.wait()
    for group in (top / "inner", top):
        if group.exists():
            group.rmdir()
    if wanted[0] not in before:
        (mount / "cgroup.subtree_control").write_text(f"-{wanted[0]}")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_kernels_own_rules_are_met(tmp_path: Path) -> None:
    """With a real hierarchy of version 2 and whichever controller it has to give."""
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", REAL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "cgroup2" in done.stderr:
        pytest.skip("no control groups of version 2 for us on this machine")
    assert done.returncode == 0, done.stderr
