"""Families and addresses of Services, as Kubernetes 1.32 settles them."""

import copy
import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meltemi.api.kinds import KINDS
from meltemi.local.apiserver.addresses import Addresses
from meltemi.local.apiserver.errors import StatusError
from meltemi.local.apiserver.validation import check

Json = dict[str, Any]
PREFER = {"ipFamilyPolicy": "PreferDualStack"}
REQUIRE = {"ipFamilyPolicy": "RequireDualStack"}
SIX = "fd00:10:43::99"


def settled(spec: Json, before: Json | None = None, *, ipv6: bool = True) -> Json:
    found = {"selector": {"app": "web"}, **copy.deepcopy(spec)}
    assert Addresses(has_ipv6=ipv6).settle(found, before, [before] if before else []) == []
    return found


def refused(
    spec: Json, before: Json | None = None, *, ipv6: bool = True, others: tuple[Json, ...] = ()
) -> list[str]:
    found = {"selector": {"app": "web"}, **copy.deepcopy(spec)}
    causes = Addresses(has_ipv6=ipv6).settle(found, before, others)
    return [path for path, _ in causes]


def families(spec: Json) -> list[str]:
    """By the addresses themselves; they agree with what the spec says."""
    found = [f"IPv{ipaddress.ip_address(ip).version}" for ip in spec["clusterIPs"]]
    assert spec["clusterIP"] == spec["clusterIPs"][0]
    assert spec["ipFamilies"] == found
    return found


@pytest.mark.parametrize("ipv6", [True, False])
def test_a_service_is_of_ipv4_alone_unless_it_asks(ipv6: bool) -> None:
    spec = settled({}, ipv6=ipv6)
    assert (families(spec), spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")


@pytest.mark.parametrize("policy", [PREFER, REQUIRE])
def test_both_families_are_given_ipv4_first(policy: Json) -> None:
    assert families(settled(policy)) == ["IPv4", "IPv6"]
    assert families(settled({**policy, "ipFamilies": ["IPv6"]})) == ["IPv6", "IPv4"]


def test_one_family_may_be_ipv6() -> None:
    assert families(settled({"ipFamilies": ["IPv6"]})) == ["IPv6"]
    assert families(settled({"clusterIP": SIX})) == ["IPv6"]
    assert settled({"clusterIP": SIX})["clusterIP"] == SIX


def test_without_ipv6_preferring_is_content_and_requiring_is_refused() -> None:
    assert families(settled(PREFER, ipv6=False)) == ["IPv4"]
    assert refused(REQUIRE, ipv6=False) == ["spec.ipFamilyPolicy"]
    assert refused({"ipFamilies": ["IPv6"]}, ipv6=False) == ["spec.ipFamilies[0]"]
    assert refused({"clusterIP": SIX}, ipv6=False) == ["spec.ipFamilies[0]"]


def test_headless_services_have_families_and_no_address() -> None:
    spec = settled({"clusterIP": "None", **PREFER})
    assert (spec["clusterIPs"], spec["ipFamilies"]) == (["None"], ["IPv4", "IPv6"])
    free = settled({"clusterIP": "None", "selector": {}})
    assert (free["ipFamilies"], free["ipFamilyPolicy"]) == (["IPv4", "IPv6"], "RequireDualStack")
    both = {"clusterIP": "None", "selector": {}, "ipFamilies": ["IPv6", "IPv4"]}
    assert settled(both, ipv6=False)["ipFamilyPolicy"] == "RequireDualStack"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"ipFamilies": ["IPv4", "IPv6"]}, "spec.ipFamilyPolicy"),
        ({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}, "spec.ipFamilyPolicy"),
        ({"ipFamilies": ["IPv4", "IPv4"], **PREFER}, "spec.ipFamilies[1]"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]"),
        ({"ipFamilyPolicy": "Both"}, "spec.ipFamilyPolicy"),
        ({"clusterIP": "web"}, "spec.clusterIPs[0]"),
        ({"clusterIP": "FD00:10:43::99"}, "spec.clusterIPs[0]"),
        ({"clusterIP": "192.0.2.1"}, "spec.clusterIPs[0]"),
        ({"clusterIP": f"{SIX}%; flush ruleset"}, "spec.clusterIPs[0]"),
        ({"clusterIPs": ["10.43.0.99"]}, "spec.clusterIPs[0]"),
        ({"clusterIP": SIX, "ipFamilies": ["IPv4"]}, "spec.clusterIPs[0]"),
        ({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "10.43.0.8"]}, "spec.clusterIPs"),
    ],
)
def test_what_does_not_fit_is_refused(spec: Json, path: str) -> None:
    assert path in refused(spec)


def test_an_address_belongs_to_one_service() -> None:
    assert refused({"clusterIP": SIX}, others=(settled({"clusterIP": SIX}),)) == [
        "spec.clusterIPs[0]"
    ]


def test_a_second_family_comes_and_goes_and_the_first_stays() -> None:
    one = settled({})
    two = settled({**one, **PREFER}, one)
    assert (two["clusterIP"], families(two)) == (one["clusterIP"], ["IPv4", "IPv6"])
    again = settled({**two, "ipFamilyPolicy": "SingleStack"}, two)
    assert again["clusterIPs"] == one["clusterIPs"]
    assert families(again) == ["IPv4"]


def test_an_update_that_names_no_address_keeps_them() -> None:
    before = settled({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}], **REQUIRE})
    after = settled({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}, before)
    assert after == before


def test_an_alias_gives_back_its_addresses() -> None:
    before = settled(REQUIRE)
    after = settled({**before, "type": "ExternalName", "externalName": "example.com"}, before)
    assert not after.keys() & {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"}
    assert refused({"type": "ExternalName", "clusterIP": "10.43.0.9"}) == ["spec.clusterIP"]


def test_a_machine_that_lost_ipv6_keeps_its_services() -> None:
    before = settled(REQUIRE)
    assert settled(before, before, ipv6=False) == before


words = st.sampled_from(["IPv4", "IPv6", "IPv5", "None", "", "10.43.0.77", SIX, "::1", "x"])
specs = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["ClusterIP", "NodePort", "ExternalName"]),
        "clusterIP": words,
        "clusterIPs": st.lists(words, max_size=3),
        "ipFamilies": st.lists(words, max_size=3),
        "ipFamilyPolicy": st.sampled_from(["SingleStack", *PREFER.values(), *REQUIRE.values()]),
        "selector": st.sampled_from([{}, {"app": "web"}]),
    },
)


@given(specs, st.booleans())
def test_what_is_settled_is_whole_and_stays_as_it_is(spec: Json, ipv6: bool) -> None:
    addresses = Addresses(has_ipv6=ipv6)
    if addresses.settle(spec, None, []) or spec.get("type") == "ExternalName":
        return
    if spec["clusterIP"] != "None":
        assert families(spec)
    again = copy.deepcopy(spec)
    assert addresses.settle(again, spec, [spec]) == []
    assert again == spec


@pytest.mark.parametrize("address", ["fd00::1", "10.0.0.1; flush ruleset", "fe80::1%eth0", "web"])
def test_endpoints_have_addresses_and_nothing_else(address: str) -> None:
    meta = {"name": "web", "namespace": "default"}
    slice_ = {"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": [address]}]}
    old = {"metadata": meta, "subsets": [{"addresses": [{"ip": address}]}]}
    with pytest.raises(StatusError, match="addresses"):
        check(KINDS["EndpointSlice"], slice_, None, None, None)
    if address == "fd00::1":
        slice_["addressType"] = "IPv6"
        check(KINDS["EndpointSlice"], slice_, None, None, None)
        check(KINDS["Endpoints"], old, None, None, None)
    else:
        with pytest.raises(StatusError, match="addresses"):
            check(KINDS["Endpoints"], old, None, None, None)
