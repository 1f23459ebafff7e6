"""What the node asks of the zygote, and what it hears back: plain values on one socket."""

from collections.abc import Mapping

import msgspec

NOT_FOUND = 127
"""The exit code of a container whose command is not there, as shells have it."""
NOT_STARTED = 128
"""The exit code of a container that could not be set up."""


class Mount(msgspec.Struct, frozen=True):
    """Show `source` of the machine at `target` of the container."""

    source: str
    target: str
    readonly: bool = False


class Root(msgspec.Struct, frozen=True):
    """A container's view of the file system: the machine's, or an image's, with changes only it
    sees."""

    layer: str
    """An empty directory to mount on; what is mounted there ends with the container."""
    base: str = ""
    """The directory of an unpacked image; empty is the machine's own tree."""
    files: Mapping[str, str] = {}
    """Path to text, such as /etc/resolv.conf."""
    executables: Mapping[str, str] = {}
    """Path to script."""
    mounts: tuple[Mount, ...] = ()
    hidden: tuple[str, ...] = ()
    """Directories of the machine that the container sees empty."""
    readonly: bool = False


class Start(msgspec.Struct, frozen=True, tag=True):
    """Start a process. With it go four descriptors: stdin, stdout, stderr, and a pipe.

    The pipe closes when the program runs; a text in it first says why it does not.
    """

    id: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    program: str = ""
    """A built-in program, run in the forked process itself; `argv` are its arguments."""
    programs: Mapping[str, str] = {}
    """Commands that are built-in programs, by the last part of their path."""
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    capabilities: tuple[int, ...] = ()
    no_new_privileges: bool = False
    network: str = ""
    """Path of the network namespace."""
    hostname: str = ""
    root: Root | None = None
    join: int = 0
    """Instead of namespaces of its own: those of this process."""
    tty: bool = False
    """Standard input is a terminal: make it the controlling one."""
    cgroups: tuple[str, ...] = ()
    """Files of control groups that the process writes itself into."""


class Kill(msgspec.Struct, frozen=True, tag=True):
    """Send a signal to a process that was started."""

    id: int
    signal: int


class Tmpfs(msgspec.Struct, frozen=True, tag=True):
    """Mount a file system in memory where every container can see it.

    It ends with the zygote, so that none is left behind.
    """

    id: int
    path: str
    options: str
    """Such as `size=1048576,mode=0777`; without any the mount is taken away."""


Request = Start | Kill | Tmpfs


class Started(msgspec.Struct, frozen=True, tag=True):
    id: int
    pid: int
    """As the node sees it."""


class Exited(msgspec.Struct, frozen=True, tag=True):
    id: int
    code: int
    """The exit code; 128 plus the signal when one ended it."""
    signal: int = 0


class Mounted(msgspec.Struct, frozen=True, tag=True):
    id: int
    failure: str = ""


Report = Started | Exited | Mounted
