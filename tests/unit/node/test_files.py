"""Volumes, logs, /etc and control groups: files."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.clock import SystemClock
from meltemi.base.keys import ObjectKey
from meltemi.base.redacted import Redacted
from meltemi.kube.informer import Event
from meltemi.local.node.environment import Environment, expand, quantity
from meltemi.local.node.errors import BadPod, VolumeMissing
from meltemi.local.node.etc import etc_files, resolv_conf
from meltemi.local.node.logs import Log, LogQuery, read, tail
from meltemi.local.node.objects import Objects
from meltemi.local.node.podspec import Container, Pod, TokenSource, VolumeMount, decode
from meltemi.local.node.volume_files import Sources
from meltemi.local.node.volumes import Owner, Volumes


def pod(**spec: Any) -> Pod:
    data = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "main"}], **spec},
    }
    return decode(msgspec.json.encode(data))


def config_map(name: str, data: Mapping[str, str]) -> Event:
    return Event(ObjectKey("ConfigMap", "default", name), msgspec.json.encode({"data": data}))


class Bench:
    """The volumes of one pod in a directory."""

    def __init__(self, directory: Path) -> None:
        self.objects = Objects()
        self.directory = directory
        environment = Environment(pod(), {}, config_map=lambda *_: None, secret=lambda *_: None)
        self.volumes = Volumes(
            directory,
            sources=Sources(self.objects, self._token),
            environment=environment,
            owner=Owner(0, None),
            tmpfs=self._tmpfs,
            claims=lambda *_: None,
        )

    async def _token(self, source: TokenSource) -> Redacted:
        return Redacted(b"secret")

    async def _tmpfs(self, path: str, options: str) -> None:
        raise AssertionError

    def source(self, name: str, sub_path: str = "") -> Path:
        return self.volumes.mount(Container("main"), VolumeMount(name, "/x"), sub_path)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "volumes")


async def test_a_volume_switches_to_a_new_generation_in_one_step(bench: Bench) -> None:
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "c"}}])
    bench.objects.deliver([config_map("c", {"one": "1", "gone": "x"})])
    await bench.volumes.prepare(wanted)
    place = bench.source("v")
    assert (place / "one").read_text() == "1"
    first = os.readlink(place / "..data")
    bench.objects.deliver([config_map("c", {"one": "2", "new": "3"})])
    await bench.volumes.prepare(wanted)
    assert os.readlink(place / "..data") != first
    assert os.readlink(place / "one") == "..data/one"
    assert (place / "one").read_text() == "2"
    assert sorted(p.name for p in place.iterdir() if p.name[0] != ".") == ["new", "one"]


async def test_what_is_missing_is_named_unless_it_is_optional(bench: Bench) -> None:
    with pytest.raises(VolumeMissing, match='volume "v": ConfigMap "c" not found'):
        await bench.volumes.prepare(pod(volumes=[{"name": "v", "configMap": {"name": "c"}}]))
    optional = {"name": "w", "configMap": {"name": "c", "optional": True}}
    await bench.volumes.prepare(pod(volumes=[optional]))
    bench.objects.deliver([config_map("c", {"one": "1"})])
    item = {"key": "two", "path": "two"}
    with pytest.raises(VolumeMissing, match='has no key "two"'):
        await bench.volumes.prepare(
            pod(volumes=[{"name": "x", "configMap": {"name": "c", "items": [item]}}])
        )


async def test_a_projected_volume_joins_its_sources(bench: Bench) -> None:
    bench.objects.deliver([config_map("c", {"one": "1"})])
    sources = [
        {"configMap": {"name": "c"}},
        {"serviceAccountToken": {"path": "deep/token"}},
        {"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    await bench.volumes.prepare(pod(volumes=[{"name": "v", "projected": {"sources": sources}}]))
    place = bench.source("v")
    assert (place / "deep/token").read_text() == "secret"
    assert (place / "deep/token").stat().st_mode & 0o777 == 0o600
    assert (place / "l").read_text() == 'a="b"'


async def test_a_sub_path_never_leads_out(bench: Bench, tmp_path: Path) -> None:
    await bench.volumes.prepare(pod(volumes=[{"name": "v", "emptyDir": {}}]))
    place = bench.source("v")
    (place / "link").symlink_to(tmp_path)
    for path in ("../other", "link", "link/deeper"):
        with pytest.raises(BadPod, match="leads out"):
            bench.source("v", path)
    assert bench.source("v", "own").is_dir()


async def test_a_full_empty_dir_is_found(bench: Bench) -> None:
    wanted = pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "8Ki"}}])
    await bench.volumes.prepare(wanted)
    assert bench.volumes.overfull(wanted) is None
    (bench.source("v") / "big").write_bytes(b"x" * 65536)
    assert bench.volumes.overfull(wanted) == ("v", "8Ki")


def test_dns_settings_are_merged_into_single_lines() -> None:
    config = {
        "nameservers": ["192.0.2.53"],
        "searches": ["example.org"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    assert resolv_conf(pod(dnsConfig=config), "10.44.0.1").splitlines() == [
        "nameserver 10.44.0.1",
        "nameserver 192.0.2.53",
        "search default.svc.cluster.local svc.cluster.local cluster.local example.org",
        "options ndots:2 edns0",
    ]
    assert resolv_conf(pod(dnsPolicy="Default"), "10.44.0.1") == ""
    only = resolv_conf(pod(dnsPolicy="None", dnsConfig=config), "10.44.0.1")
    assert only.startswith("nameserver 192.0.2.53\nsearch example.org\n")


def test_hosts_keep_every_alias() -> None:
    aliases = [{"ip": "192.0.2.1", "hostnames": ["a"]}, {"ip": "192.0.2.1", "hostnames": ["b"]}]
    files = etc_files(pod(hostAliases=aliases, setHostnameAsFQDN=True, subdomain="s"),
                      ("1.2.3.4", "fd00::4"), "10.44.0.1")  # fmt: skip
    assert "1.2.3.4\tp.s.default.svc.cluster.local p\nfd00::4\tp.s." in files["/etc/hosts"]
    assert "192.0.2.1\ta\n192.0.2.1\tb\n" in files["/etc/hosts"]
    assert files["/etc/hostname"] == "p.s.default.svc.cluster.local\n"


def test_a_resource_without_limit_is_the_machine(tmp_path: Path) -> None:
    facts = {"capacity.cpu": "4", "capacity.memory": "8000000"}
    found = Environment(pod(), facts, config_map=lambda *_: None, secret=lambda *_: None)
    env = [{"name": "N", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]
    container = pod(containers=[{"name": "main", "env": env}]).spec.containers[0]
    assert found.of(container, {})["N"] == "4"


@given(st.text("$()AB ", max_size=20))
def test_expansion_leaves_what_is_unknown(text: str) -> None:
    assert expand(text.replace("$", ""), {"A": "x"}) == text.replace("$", "")
    assert expand(text.replace("$", "$$"), {"A": "x"}) == text


@pytest.mark.parametrize(
    ("text", "value"), [("100m", 0.1), ("64Mi", 64 * 2**20), ("2", 2.0), ("1.5G", 1.5e9)]
)
def test_quantities(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


async def test_a_follower_reads_on_over_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meltemi.local.node.logs._ROTATE_AT", 2000)
    log = Log(tmp_path / "0.log", SystemClock())
    log.feed(b"first\n")
    lines: list[bytes] = []

    async def follow() -> None:
        async for block in read(log.path, LogQuery(follow=True), log):
            lines.extend(block.splitlines())

    following = asyncio.create_task(follow())
    for number in range(100):
        log.feed(b"line %d of the log that is rotated\n" % number)
        await asyncio.sleep(0)
    log.close()
    await following
    assert log.rotations > 1
    assert lines[0] == b"first"
    assert [line.split()[1] for line in lines[1:]] == [b"%d" % n for n in range(100)]
    assert tail(log.path, lines=1, most=100) == "line 99 of the log that is rotated\n"
