"""The one directory a local mesh lives in, and what is where in it."""

import json
from pathlib import Path

import msgspec

from meltemi.proxy.spec import Target

SECRETS = Target("127.0.0.1", 15012)
"""Where the control plane hands out Secrets, to agents that prove whose they are."""


class Ports(msgspec.Struct, frozen=True):
    """The published ports on 127.0.0.1."""

    console: int
    ingress: int
    api: int
    ingress_https: int = 0


class Home:
    """Paths of one local mesh; nothing here reads the environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.logs = root / "logs"
        self.kubeconfig = root / "kubeconfig"
        self.xds_socket = root / "xds" / "xds.sock"
        """In a directory of its own: proxies, which are other users, may enter it."""
        self.proxies = root / "p"
        """A short name: the paths of unix sockets below it must stay under 108 bytes."""
        self.images = root / "images.toml"
        """Images that `meltemi image add` has added."""
        self.rootfs = root / "rootfs"
        """Images that were unpacked, by digest."""
        self.claims = root / "claims"
        """The directories behind PersistentVolumeClaims."""
        self.control_socket = self.run / "control.sock"
        self.node_socket = self.run / "node.sock"
        self.supervisor_pid = self.run / "supervisor.pid"
        self._ports = self.run / "ports.json"

    def prepare(self) -> None:
        """Make the directories, closed to other users."""
        for path in (self.root, self.run, self.logs):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.xds_socket.parent, self.proxies):
            path.mkdir(mode=0o755, exist_ok=True)

    def pid_file(self, component: str) -> Path:
        return self.run / f"{component}.pid"

    def log_file(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def write_ports(self, ports: Ports) -> None:
        self._ports.write_text(json.dumps(msgspec.to_builtins(ports)))

    def ports(self) -> Ports | None:
        """The published ports of the mesh that runs, or last ran, here."""
        try:
            return msgspec.json.decode(self._ports.read_bytes(), type=Ports)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def pid(self, component: str) -> int | None:
        """The process id of a component that is alive; None otherwise."""
        try:
            number = int(self.pid_file(component).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return number if _is_alive(number) else None


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")
