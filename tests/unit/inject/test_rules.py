"""Capture rules hold for both families."""

import shutil
import subprocess

import pytest

from meltemi.inject.rules import capture_rules

MESH = ("-i", "*", "-b", "*", "-d", "15090,15021,15020")


def test_nothing_that_is_captured_is_of_one_family_only() -> None:
    rules = capture_rules(MESH)
    assert "table inet meltemi" in rules
    captured = [line.strip() for line in rules.splitlines() if "redirect to" in line]
    assert "meta l4proto tcp redirect to :15001" in captured
    assert 'iifname != "lo" meta l4proto tcp redirect to :15006' in captured


def test_the_proxy_reaches_its_application_in_both_families() -> None:
    rules = [line.strip() for line in capture_rules(MESH).splitlines()]
    assert {"ip saddr 127.0.0.6 return", "ip6 saddr ::6 return"} <= set(rules)
    assert {"ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return"} <= set(rules)


@pytest.mark.parametrize("mark", [None, 0x539])
def test_a_proxy_that_calls_its_own_pod_meets_its_policies_in_both_families(
    mark: int | None,
) -> None:
    rules = capture_rules(MESH, proxy_mark=mark)
    test = "meta skuid 1337" if mark is None else "meta mark 0x539"
    for elsewhere in ("ip daddr != 127.0.0.1", "ip6 daddr != ::1"):
        rule = f'oifname "lo" {elsewhere} {test} tcp dport != 15008 redirect to :15006'
        assert rule in rules


@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
def test_the_kernel_understands_the_rules() -> None:
    script = capture_rules((*MESH, "-x", "10.0.0.0/8,fd00::/8", "--redirect-dns"))
    checked = subprocess.run(
        ["nft", "--check", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in checked.stderr:
        pytest.skip("needs rights to ask the kernel")
    assert checked.returncode == 0, checked.stderr
