"""`python -m meltemi.local.node.zygote FD`: forks the processes of all containers.

It has one thread, has imported what the built-in programs need, and holds nothing secret, so a
container costs a fork and shares its memory. When the node closes the socket, it ends, and with it
every container (each asked the kernel to die with its parent).
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

import msgspec

from meltemi.local.images import programs
from meltemi.local.node import syscalls
from meltemi.local.node.process import (
    NOT_FOUND,
    NOT_STARTED,
    Exited,
    Kill,
    Mounted,
    Report,
    Request,
    Start,
    Started,
    Tmpfs,
)
from meltemi.local.node.rootfs import enter_root

_LARGEST = 4 << 20


class Zygote:
    """Reads requests, forks, reports ends."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pids: dict[int, int] = {}
        self._ids: dict[int, int] = {}
        self._decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)

    def run(self) -> None:
        """Serve until the node closes its end."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self._reap()
                elif not self._take():
                    return

    def _take(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._channel, _LARGEST, 4)
        if not data:
            return False
        request = self._decoder.decode(data)
        match request:
            case Start():
                try:
                    pid = self._fork(request, fds)
                finally:
                    for fd in fds:
                        os.close(fd)
                if pid:
                    self._pids[request.id], self._ids[pid] = pid, request.id
                    self._report(Started(request.id, pid))
                else:
                    self._report(Exited(request.id, NOT_STARTED))
            case Kill():
                pid = self._pids.get(request.id, 0)
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, request.signal)
            case Tmpfs():
                self._report(Mounted(request.id, _mount_memory(request)))
        return True

    def _fork(self, start: Start, fds: Sequence[int]) -> int:
        """Fork into the process namespace the request wants; 0 when there is none.

        A process that has chosen the namespace of its children cannot choose again without the
        rights of real root. So one in between chooses, forks the container and ends; the container
        becomes our child.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        wait, go = os.pipe2(os.O_CLOEXEC)
        between = os.fork()
        if between == 0:
            os.close(read)
            os.close(go)
            _go_between(start, fds, write, wait)
        os.close(write)
        os.close(wait)
        answer = b""
        while data := os.read(read, 4096):
            answer += data
        os.close(read)
        os.waitpid(between, 0)
        # Only now is the container our child, and its parent's end no longer near.
        with contextlib.suppress(BrokenPipeError):
            os.write(go, b"1")
        os.close(go)
        if answer.isdigit():
            return int(answer)
        os.write(fds[3], b"cannot create the process: " + answer)
        return 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._ids.pop(pid, None)
            if number is None:
                continue
            self._pids.pop(number, None)
            ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
            self._report(Exited(number, code, ended_by))

    def _report(self, report: Report) -> None:
        self._channel.send(msgspec.msgpack.encode(report))


def _mount_memory(request: Tmpfs) -> str:
    """Why it could not be done; empty when it was."""
    try:
        if request.options:
            syscalls.mount("tmpfs", request.path, "tmpfs", data=request.options)
        else:
            syscalls.unmount(request.path)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def _go_between(start: Start, fds: Sequence[int], answer: int, wait: int) -> None:
    """Fork the container in its process namespace and say its number. Never returns.

    The container begins when it can read from `wait`.
    """
    try:
        if start.join:
            syscalls.enter_path(f"/proc/{start.join}/ns/pid", syscalls.CLONE_NEWPID)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os.close(answer)
            if os.read(wait, 1):
                _become(start, fds)
            os._exit(NOT_STARTED)
        os.write(answer, str(pid).encode())
    except OSError as error:
        os.write(answer, str(error.strerror).encode())
    finally:
        os._exit(0)


def _become(start: Start, fds: Sequence[int]) -> None:
    """In the forked child: turn into the container. Never returns."""
    code = NOT_STARTED
    failure = fds[3]
    try:
        _reset_signals()
        syscalls.die_with_parent(signal.SIGKILL)
        os.setsid()
        for path in start.cgroups:
            with open(path, "w", encoding="utf-8") as file:
                file.write("0")
        program, argv = _program(start)
        if program:
            # The container's root may hide where Meltemi is installed.
            programs.load(program)
        _enter_namespaces(start)
        for target, fd in enumerate(fds[:3]):
            os.dup2(fd, target)
        _close_others(failure)
        if start.tty:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        _drop_privileges(start)
        try:
            os.chdir(start.cwd)
        except OSError as error:
            raise OSError(error.errno, f"workingDir {start.cwd}: {error.strerror}") from error
        if program:
            os.close(failure)
            code = _run_program(program, argv, start.env)
        else:
            code = NOT_FOUND
            os.execvpe(start.argv[0], start.argv, dict(start.env))
    except OSError as error:
        what = start.argv[0] if code == NOT_FOUND and start.argv else error.filename
        text = f"{what}: {error.strerror}" if what else str(error.strerror)
        if code == NOT_FOUND and start.root is not None and not start.root.base:
            text += (
                " on this machine, whose programs stand in for the image's; install it, or give "
                "the container a command that is there"
            )
        with contextlib.suppress(OSError):
            os.write(failure, text.encode())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _enter_namespaces(start: Start) -> None:
    if start.join:
        here = f"/proc/{start.join}/ns"
        opened = [
            (os.open(f"{here}/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
            for name, kind in (
                ("net", syscalls.CLONE_NEWNET),
                ("uts", syscalls.CLONE_NEWUTS),
                ("ipc", syscalls.CLONE_NEWIPC),
                ("mnt", syscalls.CLONE_NEWNS),
            )
        ]
        root = os.open(f"/proc/{start.join}/root", os.O_RDONLY | os.O_CLOEXEC)
        for fd, kind in opened:
            syscalls.setns(fd, kind)
        os.fchdir(root)
        os.chroot(".")
        return
    if start.network:
        syscalls.enter_path(start.network, syscalls.CLONE_NEWNET)
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w", encoding="utf-8") as file:
            file.write("0")
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    if start.hostname:
        syscalls.sethostname(start.hostname)
    if start.root is not None:
        enter_root(start.root)


def _close_others(kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd != kept:
            with contextlib.suppress(OSError):
                os.close(fd)
    os.set_inheritable(kept, False)


def _drop_privileges(start: Start) -> None:
    if start.uid or start.gid:
        os.setgroups(list(start.groups))
        os.setgid(start.gid)
        os.setuid(start.uid)
        # Changing the user clears it.
        syscalls.die_with_parent(signal.SIGKILL)
    syscalls.keep_capabilities(frozenset(start.capabilities))
    if start.no_new_privileges:
        syscalls.no_new_privileges()


def _program(start: Start) -> tuple[str, tuple[str, ...]]:
    """The built-in program that is meant, and its arguments."""
    if start.program or not start.argv:
        return start.program, start.argv
    return start.programs.get(os.path.basename(start.argv[0]), ""), start.argv[1:]


def _run_program(program: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [program, *argv]
    return programs.run(program, argv, env)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    syscalls.die_with_parent(signal.SIGKILL)
    syscalls.adopt_orphans()
    # Mounts of the machine arrive here; ours stay here, and end with this process.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
    programs.preload()
    gc.collect()
    gc.freeze()
    Zygote(channel).run()


if __name__ == "__main__":
    main()
