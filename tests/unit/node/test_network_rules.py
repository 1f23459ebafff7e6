"""The kernel's rules, names and tables of services: pure."""

import ipaddress
import shutil
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.base.keys import ObjectKey
from meltemi.kube.informer import Event
from meltemi.local.node.names import Zone
from meltemi.local.node.network import Subnet
from meltemi.local.node.services import Backend, Port, ServiceTable, Virtual
from meltemi.local.node.vips import affinity, ruleset

WEB = Virtual(
    namespace="default",
    name="web",
    cluster_ip="10.43.0.20",
    ports=(Port("http", 80, "TCP", 30080),),
    backends=tuple(Backend(f"10.44.0.{n}", "", True, True, {"http": 8080}) for n in (5, 6, 7)),
)


def change(service: Virtual, **fields: object) -> Virtual:
    return msgspec.structs.replace(service, **fields)


def test_a_service_is_reached_by_its_address_and_node_port() -> None:
    rules = ruleset([WEB], Subnet())
    assert "10.43.0.20 . tcp . 80 : goto svc0" in rules
    assert "10.44.0.1 . tcp . 30080 : goto svc0" in rules
    assert "numgen random mod 3" in rules


def test_without_endpoints_a_connection_is_refused() -> None:
    rules = ruleset([change(WEB, backends=())], Subnet())
    assert "{ 10.43.0.20 . tcp . 80, 10.44.0.1 . tcp . 30080 } reject" in rules


def test_those_that_end_are_used_when_nothing_else_is_ready() -> None:
    ending = Backend("10.44.0.9", "", False, True, {"http": 8080})
    beside = change(WEB, backends=(*WEB.backends, ending))
    assert ("10.44.0.9", 8080) not in beside.targets(WEB.ports[0])
    assert change(WEB, backends=(ending,)).targets(WEB.ports[0]) == [("10.44.0.9", 8080)]


DUAL = change(
    WEB,
    also=("fd00:10:43::20",),
    backends=(
        *WEB.backends,
        *(Backend(f"fd00:10:44::{n}", "", True, True, {"http": 8080}) for n in (5, 6)),
    ),
)


def test_each_family_has_its_own_addresses_and_endpoints() -> None:
    four, six = ruleset([DUAL], Subnet(has_ipv6=True)).split("add table ip6 ")
    assert "10.43.0.20 . tcp . 80 : goto svc0" in four
    assert "numgen random mod 3" in four
    assert "fd00" not in four
    assert "fd00:10:43::20 . tcp . 80 : goto svc0" in six
    assert "fd00:10:44::1 . tcp . 30080 : goto svc0" in six
    assert "numgen random mod 2 map { 0 : fd00:10:44::5 . 8080, 1 : fd00:10:44::6 . 8080 }" in six


def test_without_ipv6_there_are_no_rules_for_it() -> None:
    assert "ip6" not in ruleset([DUAL], Subnet())
    assert ruleset([DUAL], Subnet()) == ruleset([WEB], Subnet())


def test_a_service_of_ipv6_alone_is_refused_over_ipv6_without_endpoints() -> None:
    alone = change(WEB, cluster_ip="fd00:10:43::20")
    four, six = ruleset([alone], Subnet(has_ipv6=True)).split("add table ip6 ")
    assert "10.44.0.1 . tcp . 30080" not in four
    assert "reject with icmpv6 type port-unreachable" in six


@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
@pytest.mark.parametrize("sticky", [False, True])
def test_the_kernel_understands_the_rules(sticky: bool) -> None:
    alone = change(DUAL, cluster_ip="fd00:10:43::21", also=(), backends=DUAL.backends[-1:])
    services = [DUAL, change(alone, ports=(Port("http", 81, "TCP"),))]
    script = ruleset([*(change(s, has_affinity=sticky) for s in services),
                      change(DUAL, name="x", backends=())], Subnet(has_ipv6=True))  # fmt: skip
    checked = subprocess.run(
        ["nft", "--check", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in checked.stderr:
        pytest.skip("needs rights to ask the kernel")
    assert checked.returncode == 0, checked.stderr


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_an_endpoint_that_leaves_takes_only_its_own_clients_along(client: int, size: int) -> None:
    targets = [(f"10.44.0.{n}", 80) for n in range(size)]
    chosen = max(targets, key=lambda t: affinity(str(client), t))
    for gone in targets:
        left = [t for t in targets if t != gone]
        after = max(left, key=lambda t: affinity(str(client), t))
        assert (after == chosen) is (gone != chosen)


def event(kind: str, name: str, data: object) -> Event:
    return Event(ObjectKey(kind, "default", name), msgspec.json.encode(data))


def table(**spec: object) -> ServiceTable:
    found = ServiceTable()
    meta = {"name": "db", "namespace": "default", "uid": "u"}
    service = {"metadata": meta, "spec": {"clusterIP": "None", "ports": [
        {"name": "sql", "port": 5432, "protocol": "TCP"}], **spec}}  # fmt: skip
    slice_ = {
        "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432}],
        "endpoints": [
            {"addresses": ["10.44.0.5"], "hostname": "db-0", "conditions": {"ready": True}},
            {"addresses": ["10.44.0.6"], "hostname": None, "conditions": {"ready": False}},
        ],
    }
    found.deliver([event("Service", "db", service), event("EndpointSlice", "db-x", slice_)])
    return found


def addresses(found: ServiceTable, name: str, kind: str = "A") -> list[str]:
    return [str(record.rdata) for record in Zone(found).answer(name, kind).records]


def test_headless_names_are_those_of_ready_pods() -> None:
    assert addresses(table(), "db.default.svc.cluster.local") == ["10.44.0.5"]
    assert addresses(table(), "db-0.db.default.svc.cluster.local") == ["10.44.0.5"]
    early = table(publishNotReadyAddresses=True)
    assert addresses(early, "db.default.svc.cluster.local") == ["10.44.0.5", "10.44.0.6"]
    assert addresses(early, "10-44-0-6.db.default.svc.cluster.local") == ["10.44.0.6"]


def test_names_lead_to_addresses_of_each_family() -> None:
    found = table(clusterIP="10.43.0.7", clusterIPs=["10.43.0.7", "fd00:10:43::7"])
    name = "db.default.svc.cluster.local"
    assert (addresses(found, name), addresses(found, name, "AAAA")) == (
        ["10.43.0.7"],
        ["fd00:10:43::7"],
    )
    reverse = ipaddress.ip_address("fd00:10:43::7").reverse_pointer
    assert Zone(found).owns(reverse)
    assert addresses(found, reverse, "PTR") == [f"{name}."]
    assert not Zone(found).owns(ipaddress.ip_address("fd00:10:43::8").reverse_pointer)
    assert not Zone(found).owns("f.ip6.arpa")
    assert addresses(found, "fd00--9.default.pod.cluster.local", "AAAA") == ["fd00::9"]


def test_headless_names_are_of_pods_of_both_families() -> None:
    found = table()
    six = {
        "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv6",
        "ports": [{"name": "sql", "port": 5432}],
        "endpoints": [{"addresses": ["fd00::5"], "hostname": "db-0"}],
    }
    found.deliver([event("EndpointSlice", "db-six", six)])
    assert addresses(found, "db.default.svc.cluster.local", "AAAA") == ["fd00::5"]
    assert addresses(found, "db-0.db.default.svc.cluster.local", "AAAA") == ["fd00::5"]
    assert len(addresses(found, "_sql._tcp.db.default.svc.cluster.local", "SRV")) == 1


@pytest.mark.parametrize("address", ["10.44.0.5; flush ruleset", "fd00::5%; flush", "fd00::5", ""])
def test_what_is_no_address_never_stands_in_rules(address: str) -> None:
    found = table(clusterIP="10.43.0.7", clusterIPs=["10.43.0.7", address])
    slice_ = {
        "metadata": {"labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "ports": [{"name": "sql", "port": 5432}],
        "endpoints": [{"addresses": [address]}],
    }
    found.deliver([event("EndpointSlice", "db-bad", slice_)])
    rules = ruleset(found, Subnet(has_ipv6=True))
    assert "flush" not in rules
    assert "10.43.0.7 . tcp . 5432" in rules
    assert [b.ip for s in found for b in s.ready] == ["10.44.0.5"]


def test_services_have_srv_records_and_pods_have_names() -> None:
    [record] = addresses(table(), "_sql._tcp.db.default.svc.cluster.local", "SRV")
    assert record.endswith("5432 db-0.db.default.svc.cluster.local.")
    assert addresses(table(), "10-44-0-9.default.pod.cluster.local") == ["10.44.0.9"]


def test_an_external_name_is_an_alias() -> None:
    found = table(type="ExternalName", externalName="example.org")
    assert addresses(found, "db.default.svc.cluster.local") == ["example.org."]


def test_no_such_name_differs_from_no_such_record() -> None:
    assert Zone(table()).answer("nobody.default.svc.cluster.local", "A").exists is False
    aaaa = Zone(table()).answer("db.default.svc.cluster.local", "AAAA")
    assert (aaaa.exists, aaaa.records) == (True, ())
