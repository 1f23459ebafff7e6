"""kubectl on the local platform, as people use it."""

import json
import socket
import time

import pytest

from tests.real.conftest import Mesh


def test_the_mesh_is_up_within_its_bounds(mesh: Mesh) -> None:
    status = mesh.status()
    print(f"up in {mesh.seconds:.1f} s, {status['memory']['pssMiB']:.0f} MiB")
    assert {c["name"]: c["ready"] for c in status["components"]} == {
        "apiserver": True,
        "control-plane": True,
        "node": True,
    }
    assert status["pods"]["ready"] == status["pods"]["total"] == 8
    assert status["proxies"] == {"total": 7, "synced": 7}
    # The aim is 500; a machine that shares fewer pages must not fail the build.
    assert 0 < status["memory"]["pssMiB"] < 650


def test_proxies_say_that_they_are_in_sync(mesh: Mesh) -> None:
    for proxy in mesh.proxies():
        assert {proxy[c] for c in ("cds", "lds", "rds", "eds")} == {"SYNCED"}, proxy
        assert proxy["ecds"] == "NOT SENT"


def test_proxy_config_tells_what_envoy_holds(mesh: Mesh) -> None:
    pod = mesh.pod("app=productpage")["metadata"]["name"]
    clusters = mesh.meltemi("proxy-config", "cluster", pod)
    assert "reviews.default.svc.cluster.local" in clusters
    routes = json.loads(mesh.meltemi("proxy-config", "route", pod, "-o", "json"))
    assert any(route["name"] == "9080" for route in routes)
    table = mesh.meltemi("proxy-config", "route", "deploy/productpage-v1", "--name", "9080")
    assert "reviews, 10.43." in table
    assert "outbound|9080||reviews.default.svc.cluster.local" in table
    chains = mesh.meltemi("proxy-config", "listener", "deploy/productpage-v1", "--port", "9080")
    assert "route 9080" in chains
    assert "virtualInbound" not in chains
    cluster = "outbound|9080||details.default.svc.cluster.local"
    healthy = mesh.meltemi("proxy-config", "endpoint", pod, "--cluster", cluster)
    assert healthy.splitlines()[1].split()[1:3] == ["HEALTHY", "OK"]
    assert "yes" in mesh.meltemi("proxy-config", "secret", pod, "--name", "default")
    for section in ("listener", "endpoint", "bootstrap"):
        assert mesh.meltemi("proxy-config", section, pod, "-o", "json").startswith(("[", "{"))


def test_kubectl_shows_describes_and_logs(mesh: Mesh) -> None:
    table = mesh.kubectl("get", "pods", "-o", "wide")
    assert "2/2" in table
    pod = mesh.pod("app=reviews,version=v1")["metadata"]["name"]
    described = mesh.kubectl("describe", "pod", pod)
    assert "istio-proxy" in described
    assert "Started" in described
    assert "listening on 9080" in mesh.kubectl("logs", pod, "-c", "reviews")
    assert mesh.kubectl("get", "vs,dr,gw,peerauthentication", "-A")


def test_exec_runs_in_the_pod(mesh: Mesh) -> None:
    named = mesh.kubectl("exec", "-i", "deploy/ratings-v1", "-c", "ratings", "--", "cat",
                         text="from stdin\n")  # fmt: skip
    assert named == "from stdin\n"
    failed = mesh.result("kubectl", "exec", "deploy/ratings-v1", "--", "sh", "-c", "exit 3")
    assert failed.returncode == 3


def test_rollouts_follow_and_go_back(mesh: Mesh) -> None:
    mesh.kubectl("set", "env", "deploy/ratings-v1", "COLOUR=blue")
    mesh.kubectl("rollout", "status", "deploy/ratings-v1", "--timeout=60s")
    assert "COLOUR" in mesh.kubectl("get", "deploy/ratings-v1", "-o", "yaml")
    assert "2 " in mesh.kubectl("rollout", "history", "deploy/ratings-v1")
    mesh.kubectl("rollout", "undo", "deploy/ratings-v1")
    mesh.kubectl("rollout", "status", "deploy/ratings-v1", "--timeout=60s")
    assert "COLOUR" not in mesh.kubectl("get", "deploy/ratings-v1", "-o", "yaml")


def test_pods_get_their_configuration(mesh: Mesh) -> None:
    mesh.kubectl("apply", "-f", "-", text=CONFIGURED)
    mesh.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/configured",
                 "--timeout=60s")  # fmt: skip
    said = mesh.kubectl("logs", "configured", "-c", "main").splitlines()
    assert said == ["init was here", "blue", "configured", "s3cret", "app=configured", "token ok"]
    mesh.kubectl("delete", "pod/configured", "configmap/colours", "secret/hidden", "--now")


CONFIGURED = """
apiVersion: v1
kind: ConfigMap
metadata: {name: colours}
data: {sky: blue}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {word: s3cret}
---
apiVersion: v1
kind: Pod
metadata:
  name: configured
  labels: {app: configured, sidecar.istio.io/inject: "false"}
spec:
  restartPolicy: Never
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: hidden, secret: {secretName: hidden}}
  - name: info
    downwardAPI: {items: [{path: app, fieldRef: {fieldPath: "metadata.labels['app']"}}]}
  initContainers:
  - name: first
    image: busybox
    command: [sh, -c, "echo init was here > /shared/note"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c]
    args:
    - |
      cat /shared/note; echo $SKY; echo $NAME; cat /etc/hidden/word; echo
      echo app=$(cat /etc/info/app)
      test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token ok
    env:
    - {name: SKY, valueFrom: {configMapKeyRef: {name: colours, key: sky}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: hidden, mountPath: /etc/hidden, readOnly: true}
    - {name: info, mountPath: /etc/info}
"""


def test_an_unknown_image_names_the_table(mesh: Mesh) -> None:
    mesh.kubectl("run", "stranger", "--image=example.com/stranger:1")
    deadline = time.monotonic() + 20
    said = ""
    while "image add" not in said and time.monotonic() < deadline:
        said = mesh.kubectl("describe", "pod", "stranger")
    mesh.kubectl("delete", "pod", "stranger", "--now")
    assert "meltemi image add example.com/stranger:1 -- COMMAND" in said


def test_a_service_without_sidecars_is_reached_by_its_cluster_ip(mesh: Mesh) -> None:
    mesh.kubectl("run", "visitor", "--image=curlimages/curl",
                 "--labels=sidecar.istio.io/inject=false", "--command", "--",
                 "/bin/sleep", "infinity")  # fmt: skip
    mesh.kubectl("wait", "--for=condition=Ready", "pod/visitor", "--timeout=60s")
    ip = mesh.kubectl("get", "svc", "ratings", "-o", "jsonpath={.spec.clusterIP}")
    for host in (ip, "ratings", "ratings.default.svc.cluster.local"):
        said = mesh.kubectl("exec", "visitor", "--", "curl", "-s", f"http://{host}:9080/ratings/7")
        assert json.loads(said)["id"] == 7, host
    mesh.kubectl("delete", "pod", "visitor", "--now")


def test_a_busy_port_ends_with_one_clear_sentence(restart_mesh: type[Mesh], mesh: Mesh) -> None:
    with socket.create_server(("127.0.0.1", 18099)):
        other = restart_mesh(mesh.data.parent / f"{mesh.data.name}x")
        refused = other.result(*_up(), "--data", str(other.data), "--console-port", "18099")
    assert refused.returncode == 1
    assert "18099" in refused.stderr
    assert "--console-port" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def _up() -> tuple[str, ...]:
    import sys
    from pathlib import Path

    return (str(Path(sys.executable).parent / "meltemi"), "up", "--detach")


def test_injection_on_the_command_line_is_what_the_webhook_does(mesh: Mesh) -> None:
    from tests.real.conftest import SAMPLES

    manifest = SAMPLES / "bookinfo/platform/bookinfo.yaml"
    said = mesh.run(_up()[0], "inject", "-f", str(manifest))
    assert said.count("name: istio-init") == 6
    pod = mesh.pod("app=details")
    names = [c["name"] for c in pod["spec"]["containers"]]
    assert names == ["details", "istio-proxy"]
    assert pod["metadata"]["labels"]["security.istio.io/tlsMode"] == "istio"


@pytest.mark.parametrize("command", ["up", "status", "graph", "wait", "proxy-status", "inject"])
def test_every_command_has_help_with_an_example(mesh: Mesh, command: str) -> None:
    assert "Example:" in mesh.run(_up()[0], command, "--help")
