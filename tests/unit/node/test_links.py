"""Namespaces and links by netlink, looked at with `ip`, in networks of our own."""

import shutil
import subprocess
import sys

import pytest

SCRIPT = """
import json, socket, subprocess
from pathlib import Path
from meltemi.local.node import links, syscalls

def ip(*argv):
    said = subprocess.run(["ip", *argv], check=True, capture_output=True, text=True).stdout
    return json.loads(said) if said.strip() else None

place = Path("/run/netns/pod-1")
syscalls.mount("", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
syscalls.mount("tmpfs", "/run", "tmpfs")
place.parent.mkdir()
ip("link", "add", "br0", "type", "bridge")
for address in ("10.9.0.1/16", "fd09::1/64"):
    ip("addr", "add", address, "dev", "br0", *(["nodad"] if ":" in address else []))
ip("link", "set", "br0", "up")

links.make_namespace(place)
links.join(str(place), "cable1", "br0")

def furnish():
    links.furnish([("10.9.0.7", "10.9.0.1"), ("fd09::7", "fd09::1")])
    links.add_to_loopback("::6")

links.inside(str(place), furnish)

[cable] = ip("-j", "-d", "link", "show", "cable1")
assert cable["master"] == "br0" and "UP" in cable["flags"], cable
assert cable["linkinfo"]["info_slave_data"]["hairpin"], cable
shown = {link["ifname"]: link for link in ip("-n", "pod-1", "-j", "addr")}
own = {a["local"]: a["prefixlen"] for a in shown["eth0"]["addr_info"] if a["scope"] == "global"}
assert own == {"10.9.0.7": 32, "fd09::7": 128}, own
assert {"127.0.0.1", "::1", "::6"} <= {a["local"] for a in shown["lo"]["addr_info"]}
routes = {r["dst"]: r for r in ip("-n", "pod-1", "-j", "route")}
assert routes["default"]["gateway"] == "10.9.0.1" and routes["10.9.0.1"]["scope"] == "link"
routes = {r["dst"]: r for r in ip("-n", "pod-1", "-6", "-j", "route")}
assert routes["default"]["gateway"] == "fd09::1", routes

def call(family, address):
    def connect():
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(5)
        sock.connect((address, 80))
        sock.close()
    links.inside(str(place), connect)

for family, address in ((socket.AF_INET, "10.9.0.1"), (socket.AF_INET6, "fd09::1")):
    with socket.create_server((address, 80), family=family):
        call(family, address)

try:
    links.join(str(place), "cable1", "br0")
    raise SystemExit("made twice")
except FileExistsError:
    pass
links.remove_namespace(place)
assert not place.exists()
"""


@pytest.mark.skipif(not shutil.which("ip"), reason="needs ip")
@pytest.mark.parametrize("rights", [("--user", "--map-root-user"), ()], ids=["rootless", "root"])
def test_a_pod_is_joined_to_the_bridge(rights: tuple[str, ...]) -> None:
    unshare = ("unshare", *rights, "--net", "--mount")
    if subprocess.run((*unshare, "true"), capture_output=True, check=False).returncode:
        pytest.skip("needs rights to make a network")
    done = subprocess.run(
        (*unshare, sys.executable, "-c", SCRIPT), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
