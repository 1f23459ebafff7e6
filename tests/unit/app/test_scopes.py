"""Sidecar objects from observed traffic."""

from meltemi.app.scopes import common_labels, suggested
from meltemi.telemetry.traffic import Peer, Traffic


def call(source: str, host: str, *, namespace: str = "shop") -> Traffic:
    name, _, rest = host.partition(".")
    return Traffic(
        source=Peer(namespace=namespace, workload=source),
        destination=Peer(),
        host=host,
        service=name,
        service_namespace=rest.partition(".")[0] if rest else "",
        protocol="http",  # type: ignore[arg-type]
        rate=1.0,
    )


def test_each_workload_may_reach_what_it_called() -> None:
    seen = [
        call("web", "cart.shop.svc.cluster.local"),
        call("web", "pay.bank.svc.cluster.local"),
        call("web", "cart.shop.svc.cluster.local"),
        call("web", "PassthroughCluster"),
        call("cart", "db.shop.svc.cluster.local"),
        call("odd", "db.shop.svc.cluster.local"),
        call("web", "other.shop.svc.cluster.local", namespace="elsewhere"),
    ]
    labels = {"web": {"app": "web"}, "cart": {"app": "cart", "version": "v1"}}
    found = suggested(seen, "shop", labels)
    assert [s["metadata"] for s in found] == [
        {"name": "cart", "namespace": "shop"},
        {"name": "web", "namespace": "shop"},
    ]
    assert found[1]["spec"] == {
        "workloadSelector": {"labels": {"app": "web"}},
        "egress": [
            {"hosts": ["bank/pay.bank.svc.cluster.local", "shop/cart.shop.svc.cluster.local"]}
        ],
    }


def test_a_workload_is_selected_by_its_usual_labels_or_by_what_its_pods_share() -> None:
    found = common_labels(
        [
            ("web", {"app": "web", "version": "v1", "pod-template-hash": "1"}),
            ("web", {"app": "web", "version": "v1", "pod-template-hash": "2"}),
            ("job", {"role": "batch", "run": "1"}),
            ("job", {"role": "batch", "run": "2"}),
        ]
    )
    assert found == {"web": {"app": "web", "version": "v1"}, "job": {"role": "batch"}}
