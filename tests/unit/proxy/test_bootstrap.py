"""The bootstrap: what it says, and that the real Envoy takes it."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from meltemi.base.resource import node_from_id
from meltemi.proxy.bootstrap import bootstrap
from meltemi.proxy.envoy import envoy_argv, envoy_path
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.node import node_id

PROBERS = {
    "/app-health/reviews/readyz": {"httpGet": {"path": "/health", "port": "http"}},
    "/app-health/reviews/livez": {"tcpSocket": {"port": 9081}},
}
APP_ENV = {
    "ISTIO_KUBE_APP_PROBERS": json.dumps(PROBERS),
    "ISTIO_META_POD_PORTS": '[{"name":"http","containerPort":9080,"protocol":"TCP"}]',
    "ISTIO_PROMETHEUS_ANNOTATIONS": '{"scrape":"true","path":"/m","port":"9090"}',
    "ISTIO_META_CLUSTER_ID": "other",
    "ISTIO_METAJSON_EXTRA": '{"EXTRA":[1]}',
    "PROXY_CONFIG": '{"concurrency":2}',
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kind": "router", "socket_mark": 0x539},
        {"xds_target": "istiod.istio-system.svc:15012"},
        {"xds_target": "127.0.0.1:15012", "env": APP_ENV},
        {
            "annotations": {
                "sidecar.istio.io/statsInclusionRegexps": "http.*rbac",
                "sidecar.istio.io/statsEvictionInterval": "25s",
            }
        },
    ],
    ids=["unix", "router-mark", "dns-tls", "ip-tls-app", "stats"],
)
async def test_the_real_envoy_accepts_it(tmp_path: Path, make_spec, changes) -> None:
    spec = make_spec(**changes)
    file = tmp_path / "bootstrap.json"
    file.write_bytes(msgspec.json.encode(bootstrap(spec)))
    process = await asyncio.create_subprocess_exec(
        *(str(envoy_path()), "--mode", "validate", "--config-path", str(file)),
        *("--disable-hot-restart", "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"warning" not in out, out.decode()


def test_the_node_says_who_it_is(make_spec) -> None:
    node = bootstrap(make_spec(env=APP_ENV))["node"]
    parsed = node_from_id(node["id"], {}, {})
    assert (parsed.name, parsed.namespace, parsed.ip) == ("reviews-v1-abc", "default", "127.0.0.1")
    said = node["metadata"]
    assert said["WORKLOAD_NAME"] == "reviews-v1"
    assert said["LABELS"] == {"app": "reviews", "version": "v1"}
    assert said["CLUSTER_ID"] == "other"
    assert said["EXTRA"] == [1]
    assert said["POD_PORTS"][0]["containerPort"] == 9080


def test_the_pod_cannot_claim_another_name_by_its_environment(make_spec) -> None:
    env = {"ISTIO_META_NAMESPACE": "kube-system", "ISTIO_METAJSON_X": '{"SERVICE_ACCOUNT":"a"}'}
    said = bootstrap(make_spec(env=env))["node"]["metadata"]
    assert (said["NAMESPACE"], said["SERVICE_ACCOUNT"]) == ("default", "reviews")


def test_no_secret_is_in_it(make_spec) -> None:
    assert b"e30.e30.c2ln" not in msgspec.json.encode(bootstrap(make_spec()))


def test_from_outside_status_only_reads(make_spec) -> None:
    listeners = bootstrap(make_spec())["static_resources"]["listeners"]
    status = next(x for x in listeners if x["name"] == "meltemi-status")
    inside, outside = (str(chain) for chain in status["filter_chains"])
    assert "/quitquitquit" in inside
    assert "/quitquitquit" not in outside
    admin = next(x for x in listeners if x["name"] == "meltemi-admin")
    assert admin["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_app_is_reached_as_inbound_traffic_is(make_spec) -> None:
    clusters = bootstrap(make_spec(env=APP_ENV))["static_resources"]["clusters"]
    by_name = {c["name"]: c for c in clusters}
    assert {"app-9080", "app-9081", "app-9090"} <= set(by_name)
    source = by_name["app-9080"]["upstream_bind_config"]["source_address"]
    assert source["address"] == "127.0.0.6"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "ztunnel"}, "proxy kind 'ztunnel'"),
        ({"directory": "/" + "x" * 120}, "longer than 107 bytes"),
        ({"xds_target": "nowhere"}, "expected unix:PATH or host:port"),
        ({"env": {"ISTIO_KUBE_APP_PROBERS": "{"}}, "env ISTIO_KUBE_APP_PROBERS"),
        (
            {"env": {"ISTIO_KUBE_APP_PROBERS": '{"/a":{"httpGet":{"port":"no"}}}'}},
            "'no' of a probe",
        ),
    ],
)
def test_what_cannot_work_is_named(make_spec, changes, match) -> None:
    with pytest.raises(BadSpec, match=match):
        bootstrap(make_spec(**changes))


def test_the_command_line_follows_the_pod(make_spec) -> None:
    spec = make_spec(env=APP_ENV, annotations={"sidecar.istio.io/logLevel": "debug"})
    argv = envoy_argv(Path("/envoy"), spec)
    assert argv[argv.index("--concurrency") + 1] == "2"
    assert argv[argv.index("--log-level") + 1] == "debug"
    with pytest.raises(BadSpec, match="logLevel"):
        envoy_argv(Path("/envoy"), make_spec(annotations={"sidecar.istio.io/logLevel": "loud --x"}))


def test_the_node_id_is_istios(make_spec) -> None:
    expected = "router~127.0.0.1~reviews-v1-abc.default~default.svc.cluster.local"
    assert node_id(make_spec(kind="router")) == expected
