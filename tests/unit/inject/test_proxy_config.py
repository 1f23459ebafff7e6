"""A proxy's settings: who says what, and what comes of it in the pod and at Envoy."""

import json
from typing import Any

import pytest

from meltemi.api.meta import LabelSelector, ObjectMeta
from meltemi.api.proxy_config import ProxyConfig, ProxyConfigSpec, ProxyImage, proxy_settings
from meltemi.api.validate import validate
from meltemi.base.redacted import Redacted
from meltemi.inject.patch import InjectConfig, inject
from meltemi.proxy.bootstrap import bootstrap
from meltemi.proxy.envoy import envoy_argv, envoy_path
from meltemi.proxy.errors import BadSpec
from meltemi.proxy.spec import ProxySpec


def config(
    name: str, namespace: str, *, selector: dict[str, str] | None = None, age: int = 0, **spec: Any
) -> ProxyConfig:
    chosen = LabelSelector(match_labels=selector) if selector is not None else None
    meta = ObjectMeta(name=name, namespace=namespace, creation_timestamp=f"2026-01-{age + 1:02d}")
    return ProxyConfig(
        kind="ProxyConfig", metadata=meta, spec=ProxyConfigSpec(selector=chosen, **spec)
    )


def settings(*objects: ProxyConfig, **defaults: Any) -> dict[str, Any]:
    return proxy_settings(
        defaults, objects, namespace="shop", labels={"app": "a"}, root="istio-system"
    )


def test_the_nearer_one_wins_field_by_field() -> None:
    mesh = {"concurrency": 1, "proxyMetadata": {"A": "mesh", "B": "mesh"}, "drainDuration": "9s"}
    root = config("r", "istio-system", concurrency=2, environment_variables={"A": "root"})
    own = config("n", "shop", concurrency=3, environment_variables={"C": "own"})
    mine = config("w", "shop", selector={"app": "a"}, concurrency=4)
    others = config("o", "shop", selector={"app": "b"}, concurrency=5)
    elsewhere = config("e", "other", concurrency=6)
    found = settings(mine, own, root, others, elsewhere, **mesh)
    assert found == {
        "concurrency": 4,
        "proxyMetadata": {"A": "root", "B": "mesh", "C": "own"},
        "drainDuration": "9s",
    }
    assert settings(own, root, **mesh)["concurrency"] == 3
    assert settings(root, **mesh)["concurrency"] == 2


def test_the_oldest_of_a_level_wins() -> None:
    young = config("a", "shop", age=2, concurrency=7)
    assert settings(young, config("b", "shop", age=1, concurrency=8))["concurrency"] == 8


def injected(annotation: str = "", **more: Any) -> dict[str, Any]:
    annotations = {"proxy.istio.io/config": annotation} if annotation else {}
    pod = {
        "metadata": {"name": "a", "annotations": annotations, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "app", "image": "x"}]},
    }
    found = inject(pod, {"istio-injection": "enabled"}, InjectConfig(**more), namespace="shop")
    assert isinstance(found, dict)
    return found


def proxy(pod: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    container = next(c for c in pod["spec"]["containers"] if c["name"] == "istio-proxy")
    return container, {e["name"]: e.get("value", "") for e in container["env"]}


def test_the_annotation_beats_them_all_in_the_pod() -> None:
    base = {"concurrency": 3, "proxyMetadata": {"A": "object", "B": "object"}}
    base["tracing"] = {"sampling": 10}
    container, env = proxy(injected("concurrency: 2\nproxyMetadata: {A: pod}", proxy=base))
    told = json.loads(env["PROXY_CONFIG"])
    assert told["concurrency"] == 2
    assert told["tracing"] == {"sampling": 10}
    assert (env["A"], env["B"]) == ("pod", "object")
    assert container["image"].endswith("proxyv2:1")
    container, _ = proxy(injected(proxy={"image": {"imageType": "debug"}}))
    assert container["image"].endswith("proxyv2:1-debug")


def test_the_application_waits_for_the_proxy_where_the_mesh_says_so() -> None:
    pod = injected(proxy={"holdApplicationUntilProxyStarts": True})
    assert [c["name"] for c in pod["spec"]["containers"]] == ["istio-proxy", "app"]
    pod = injected(
        "holdApplicationUntilProxyStarts: false", proxy={"holdApplicationUntilProxyStarts": True}
    )
    assert [c["name"] for c in pod["spec"]["containers"]] == ["app", "istio-proxy"]


def spec(env: dict[str, str]) -> ProxySpec:
    return ProxySpec(
        kind="sidecar",
        namespace="shop",
        name="a",
        uid="1",
        ip="10.0.0.1",
        node_name="n",
        service_account="default",
        labels={},
        annotations={},
        workload="a",
        env=env,
        directory="/tmp/p",
        xds_target="unix:/tmp/x.sock",
        token=Redacted("t"),
    )


def test_envoy_is_started_as_the_settings_say() -> None:
    told = {"concurrency": 3, "drainDuration": "12s"}
    argv = envoy_argv(envoy_path(), spec({"PROXY_CONFIG": json.dumps(told)}))
    assert argv[argv.index("--concurrency") + 1] == "3"
    assert argv[argv.index("--drain-time-s") + 1] == "12"
    plain = envoy_argv(envoy_path(), spec({}))
    assert plain[plain.index("--concurrency") + 1] == "1"
    with pytest.raises(BadSpec, match="drainDuration"):
        envoy_argv(envoy_path(), spec({"PROXY_CONFIG": '{"drainDuration": "soon"}'}))


def test_bootstrap_patches_travel_in_the_pod_and_are_merged() -> None:
    patches = [{"stats_flush_interval": "3s", "static_resources": {"clusters": [{"name": "mine"}]}}]
    _, env = proxy(injected(bootstrap=json.dumps(patches)))
    found = bootstrap(spec({"MELTEMI_BOOTSTRAP_PATCHES": env["MELTEMI_BOOTSTRAP_PATCHES"]}))
    assert found["stats_flush_interval"] == "3s"
    names = [c["name"] for c in found["static_resources"]["clusters"]]
    assert names[-1] == "mine"
    assert "xds-grpc" in names


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (config("x", "shop", concurrency=-1), "spec.concurrency"),
        (config("x", "shop", environment_variables={"a b": "c"}), "spec.environmentVariables"),
        (config("x", "shop", image=ProxyImage(image_type="../x")), "spec.image.imageType"),
        (config("x", "shop", selector={"!": "x"}), "spec.selector.matchLabels"),
    ],
)
def test_bad_settings_name_the_field(made: ProxyConfig, path: str) -> None:
    assert [p.path for p in validate(made)] == [path]
