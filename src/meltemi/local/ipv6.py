"""IPv6 on the local platform: whether the kernel lets pods have it, and the ranges they get."""

import ipaddress
import subprocess
from collections.abc import Mapping
from pathlib import Path

SERVICES = ipaddress.IPv6Network("fd00:10:43::/112")
"""Addresses of Services."""
_SETTINGS = Path("/proc/sys/net/ipv6/conf")
_PROBE = """
add table ip6 meltemi-probe
add chain ip6 meltemi-probe nat { type nat hook output priority -100; }
delete table ip6 meltemi-probe
"""


def is_available(environment: Mapping[str, str]) -> bool:
    """Whether this network has IPv6, switched on, and the kernel can translate its addresses.

    `environment`: its PATH leads to nft.
    """
    try:
        off = [(_SETTINGS / place / "disable_ipv6").read_text() for place in ("all", "default")]
        probe = subprocess.run(
            ("nft", "-f", "-"),
            input=_PROBE.encode(),
            capture_output=True,
            timeout=10,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return all(text.strip() == "0" for text in off) and probe.returncode == 0


def forward(interface: str) -> None:
    """Let the kernel pass on what comes in by an interface. Raises OSError.

    Kernels before 6.17 forward for all interfaces or none. A machine that forwards no longer
    hears of routers, unless it is told to: the machine keeps its own way out.
    """
    own = _SETTINGS / interface / "force_forwarding"
    if own.exists():
        own.write_text("1")
        return
    for setting in _SETTINGS.glob("*/accept_ra"):
        if setting.read_text().strip() == "1":
            setting.write_text("2")
    (_SETTINGS / "all" / "forwarding").write_text("1")
