"""kubectl's commands that make objects themselves, in protobuf, and those that ask questions."""

import json

import pytest

from .conftest import REAL, Cluster

CREATED = {
    "configmap one --from-literal=a=b": "configmap/one created",
    "secret generic one --from-literal=a=b": "secret/one created",
    "secret docker-registry two --docker-username=u --docker-password=p": "secret/two created",
    "serviceaccount one": "serviceaccount/one created",
    "deployment one --image=busybox --replicas=0 --port=80": "deployment.apps/one created",
    "job one --image=busybox -- true": "job.batch/one created",
    "cronjob one --image=busybox --schedule=@yearly -- true": "cronjob.batch/one created",
    "service clusterip one --tcp=80:http": "service/one created",
    "service nodeport two --tcp=80:8080": "service/two created",
    "service loadbalancer three --tcp=80:8080": "service/three created",
    "service externalname four --external-name=example.com": "service/four created",
    "role one --verb=get,list --resource=pods,deployments.apps": "one created",
    "rolebinding one --clusterrole=view --serviceaccount=default:one": "one created",
    "ingress one --rule=a.example.com/x*=svc:http,tls=s": "ingress.networking.k8s.io/one created",
    "poddisruptionbudget one --min-available=1 --selector=a=b": "one created",
}


@pytest.mark.parametrize("command", CREATED)
def test_create(cluster: Cluster, command: str) -> None:
    assert CREATED[command] in cluster.kubectl("create", *command.split())


def test_what_was_created_is_what_was_meant(cluster: Cluster) -> None:
    argv = "create deployment typed --image=busybox --replicas=0 --port=80"
    cluster.kubectl(*argv.split())
    found = json.loads(cluster.kubectl("get", "deployment", "typed", "-o", "json"))
    spec = found["spec"]
    assert spec["replicas"] == 0
    assert spec["selector"] == {"matchLabels": {"app": "typed"}}
    [container] = spec["template"]["spec"]["containers"]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert "stdin" not in container
    cluster.kubectl("create", "ingress", "typed", "--rule=a.example.com/x*=svc:http")
    found = json.loads(cluster.kubectl("get", "ingress", "typed", "-o", "json"))
    [path] = found["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "svc", "port": {"name": "http"}}
    assert (path["path"], path["pathType"]) == ("/x", "Prefix")


def test_deployments_are_changed_by_their_commands(cluster: Cluster) -> None:
    run = cluster.kubectl
    run("create", "deployment", "web", "--image=busybox:1", "--replicas=1")
    run("set", "image", "deployment/web", "busybox=busybox:2")
    run("set", "env", "deployment/web", "COLOUR=blue")
    run("set", "resources", "deployment/web", "--limits=cpu=100m")
    run("rollout", "restart", "deployment/web")
    run("rollout", "pause", "deployment/web")
    run("rollout", "resume", "deployment/web")
    run("scale", "deployment/web", "--replicas=3", "--current-replicas=1")
    assert "exposed" in run("expose", "deployment/web", "--port=80", "--target-port=8080")
    run("autoscale", "deployment/web", "--max=3", "--cpu-percent=50")
    found = json.loads(run("get", "deployment", "web", "-o", "json"))
    [container] = found["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "busybox:2"
    assert container["env"] == [{"name": "COLOUR", "value": "blue"}]
    assert container["resources"] == {"limits": {"cpu": "100m"}}
    assert found["spec"]["replicas"] == 3
    assert "cpu: <unknown>/50%" in run("get", "hpa", "web")


def test_pods_are_run_and_deleted(cluster: Cluster) -> None:
    run = cluster.kubectl
    assert "pod/solo created" in run("run", "solo", "--image=busybox", "--restart=Never",
                                     "--env=A=b", "--labels=x=y", "--port=80")  # fmt: skip
    assert "solo" in run("get", "pods", "-l", "x=y", "-o", "wide")
    assert "deleted" in run("delete", "pod", "-l", "x=y", "--grace-period=0", "--force")


def test_rights_are_asked_for(cluster: Cluster) -> None:
    run = cluster.kubectl
    user = f"system:serviceaccount:{cluster.namespace}:asker"
    run("create", "serviceaccount", "asker")
    assert cluster.refused("auth", "can-i", "list", "pods", "--as", user).strip() == "no"
    account = f"{cluster.namespace}:asker"
    run("create", "rolebinding", "asker", "--clusterrole=view", f"--serviceaccount={account}")
    assert run("auth", "can-i", "list", "pods", "--as", user).strip() == "yes"
    assert "pods" in run("auth", "can-i", "--list", "--as", user)
    assert cluster.refused("get", "secrets", "--as", user).startswith(
        "Error from server (Forbidden)"
    )
    assert run("get", "pods", "--as", user) is not None
    if not REAL:
        assert "kubernetes-admin" in run("auth", "whoami")
    token = run("create", "token", "asker", "--duration=10m", "--audience=me").strip()
    assert token.count(".") == 2


def test_the_server_tells_about_itself(cluster: Cluster) -> None:
    run = cluster.kubectl
    assert "Server Version" in run("version")
    assert "is running at" in run("cluster-info")
    assert "networking.k8s.io/v1" in run("api-versions")
    resources = run("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    assert {"pods", "deployments.apps", "ingresses.networking.k8s.io"} <= set(resources)
    assert "deployments" in run("api-resources", "--categories=all")
    assert run("get", "--raw", "/readyz").strip() == "ok"
    assert run("get", "all") is not None
    assert "DESCRIPTION" in run("explain", "pod.spec.containers.livenessProbe.httpGet")


def test_a_watch_shows_changes_as_a_table(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "watched")
    out = cluster.kubectl("get", "configmap", "watched", "-w", "--request-timeout=1s")
    assert out.splitlines()[0].split()[:2] == ["NAME", "DATA"]


def test_deletion_propagates_as_asked(cluster: Cluster) -> None:
    run = cluster.kubectl
    for how in ("background", "foreground", "orphan"):
        name = f"cascade-{how}"
        run("create", "deployment", name, "--image=busybox", "--replicas=0")
        assert "deleted" in run("delete", "deployment", name, f"--cascade={how}")


def test_a_definition_made_now_is_served_now(cluster: Cluster) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 1, "description": "How big it is."}}}}}  # fmt: skip
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "hats.conformance.example.com"},
        "spec": {
            "group": "conformance.example.com",
            "scope": "Namespaced",
            "names": {"plural": "hats", "kind": "Hat", "shortNames": ["ht"]},
            "versions": [{"name": "v1", "served": True, "storage": True,
                          "schema": {"openAPIV3Schema": schema}}],
        },
    }  # fmt: skip
    run = cluster.kubectl
    run("apply", "-f", "-", text=json.dumps(definition))
    run("wait", "--for=condition=Established", "crd/hats.conformance.example.com")
    hat = {"apiVersion": "conformance.example.com/v1", "kind": "Hat", "metadata": {"name": "top"}}
    run("apply", "-f", "-", text=json.dumps({**hat, "spec": {}}))
    assert run("get", "ht", "top", "-o", "jsonpath={.spec.size}") == "1"
    assert "How big it is." in run("explain", "hat.spec.size")
    run("delete", "crd", "hats.conformance.example.com")
    assert "the server" in cluster.refused("get", "hats")
