"""Services without sidecars, and the programs that stand in for images, with kubectl and curl."""

import asyncio
import json
import re
import time
from typing import Any

import pytest

from tests.real.conftest import Mesh
from tests.real.load import Load, until


@pytest.fixture(scope="module")
def shop(platform: Mesh) -> Mesh:
    """A few services, and the pod `visitor` to call them from."""
    platform.kubectl("apply", "-f", "-", text=MANIFEST)
    for kind, name in (("deploy", "web"), ("sts", "db"), ("deploy", "udp"), ("deploy", "tools")):
        platform.kubectl("rollout", "status", f"{kind}/{name}", "--timeout=60s")
    platform.kubectl("wait", "--for=condition=Ready", "pod/visitor", "--timeout=60s")
    return platform


def ask(mesh: Mesh, *argv: str, pod: str = "visitor") -> str:
    return mesh.kubectl("exec", pod, "--", *argv)


def curl(mesh: Mesh, url: str, *options: str) -> str:
    """A datagram to the name server may get lost: its resolver asks again after five seconds."""
    return ask(mesh, "curl", "-sS", "-m", "15", *options, url)


def service(mesh: Mesh, name: str) -> Any:
    return json.loads(mesh.kubectl("get", "svc", name, "-o", "json"))


UDP_ECHO = (
    "import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.bind(('', 5353))\n"
    "while True: data, who = u.recvfrom(999); u.sendto(b'udp ' + data, who)"
)

MANIFEST = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: main
        image: meltemi/echo
        args: [--port, "8080"]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports:
  - {{name: named, port: 80, targetPort: http}}
  - {{name: numbered, port: 81, targetPort: 8080}}
---
apiVersion: v1
kind: Service
metadata: {{name: sticky}}
spec: {{selector: {{app: web}}, sessionAffinity: ClientIP, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: alias}}
spec: {{type: ExternalName, externalName: web.default.svc.cluster.local}}
---
apiVersion: v1
kind: Service
metadata: {{name: nobody}}
spec: {{selector: {{app: nobody}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 2
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: istio/tcp-echo-server:1.3
        args: ["9000", "hello"]
        ports: [{{name: tcp, containerPort: 9000}}]
        volumeMounts: [{{name: data, mountPath: /data}}]
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: tcp, port: 9000}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: udp}}
spec:
  selector: {{matchLabels: {{app: udp}}}}
  template:
    metadata: {{labels: {{app: udp}}}}
    spec:
      containers:
      - name: main
        image: python:3.12
        args: [python3, "-c", {json.dumps(UDP_ECHO)}]
---
apiVersion: v1
kind: Service
metadata: {{name: udp}}
spec:
  type: NodePort
  selector: {{app: udp}}
  ports: [{{port: 53, targetPort: 5353, protocol: UDP}}]
---
apiVersion: v1
kind: Service
metadata: {{name: early}}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{app: early}}
  ports: [{{port: 80}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: early, labels: {{app: early}}}}
spec:
  containers:
  - name: main
    image: busybox
    command: [sleep, infinity]
    readinessProbe: {{exec: {{command: ["false"]}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: tools}}
spec:
  selector: {{matchLabels: {{app: tools}}}}
  template:
    metadata: {{labels: {{app: tools}}}}
    spec:
      containers:
      - {{name: httpbin, image: docker.io/mccutchen/go-httpbin, ports: [{{containerPort: 8080}}]}}
      - name: old-httpbin
        image: docker.io/kong/httpbin
        command: [gunicorn, -b, "0.0.0.0:8000", "httpbin:app", -k, gevent]
      - {{name: text, image: hashicorp/http-echo, args: [-text=hello, "-listen=:5678"]}}
      - {{name: h2, image: meltemi/h2-echo}}
      - name: site
        image: nginx
        volumeMounts: [{{name: page, mountPath: /usr/share/nginx/html}}]
      volumes: [{{name: page, configMap: {{name: page}}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: page}}
data: {{index.html: "<p>a page of mine</p>"}}
---
apiVersion: v1
kind: Service
metadata: {{name: tools}}
spec:
  selector: {{app: tools}}
  ports:
  - {{name: go, port: 8080}}
  - {{name: old, port: 8000}}
  - {{name: text, port: 5678}}
  - {{name: h2, port: 7070}}
  - {{name: site, port: 80}}
---
apiVersion: v1
kind: Pod
metadata: {{name: visitor}}
spec:
  containers:
  - {{name: main, image: nicolaka/netshoot, command: [sleep, infinity]}}
  - {{name: fortio, image: fortio/fortio}}
"""


def test_cluster_ips_reach_ports_by_name_and_number(shop: Mesh) -> None:
    ip = service(shop, "web")["spec"]["clusterIP"]
    for url in (f"http://{ip}/", "http://web/", "http://web.default:81/"):
        assert json.loads(curl(shop, url))["method"] == "GET"
    hosts = {json.loads(curl(shop, "http://web/"))["hostname"] for _ in range(20)}
    assert len(hosts) > 1
    refused = shop.result("kubectl", "exec", "visitor", "--", "curl", "-sS", "-m", "5", "nobody")
    assert refused.returncode == 7


def test_datagrams_reach_a_service(shop: Mesh) -> None:
    send = ("sh", "-c", "echo hi | nc -u -w 1 udp 53")
    assert ask(shop, *send) == "udp hi\n"
    port = service(shop, "udp")["spec"]["ports"][0]["nodePort"]
    script = (
        "import socket as s; u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.settimeout(5); "
        f"u.sendto(b'yo', ('127.0.0.1', {port})); print(u.recv(99).decode())"
    )
    assert shop.run("python3", "-c", script) == "udp yo\n"


def test_affinity_keeps_a_client_at_its_endpoint(shop: Mesh) -> None:
    hosts = {json.loads(curl(shop, "http://sticky/"))["hostname"] for _ in range(12)}
    assert len(hosts) == 1


def test_a_load_balancer_and_node_ports_are_reached_from_the_machine(shop: Mesh) -> None:
    row = shop.kubectl("get", "svc", "web", "--no-headers").split()
    ip, ports = row[3], row[4]
    assert ip.startswith("127.44.")
    node_port = re.search(r"80:(\d+)/TCP", ports)
    assert node_port is not None
    inside = service(shop, "web")["spec"]["clusterIP"]
    gateway = "10.44.0.1"
    for place in (ip, f"127.0.0.1:{node_port[1]}", f"{gateway}:{node_port[1]}", inside):
        assert json.loads(shop.run("curl", "-sS", "-m", "5", f"http://{place}/x"))["path"] == "/x"
    from_pod = curl(shop, f"http://{gateway}:{node_port[1]}/y")
    assert json.loads(from_pod)["path"] == "/y"


def test_headless_names_lead_to_pods(shop: Mesh) -> None:
    ips = {
        p["metadata"]["name"]: p["status"]["podIP"]
        for p in json.loads(shop.kubectl("get", "pods", "-l", "app=db", "-o", "json"))["items"]
    }
    assert sorted(ips) == ["db-0", "db-1"]
    found = ask(shop, "nslookup", "-type=a", "db")
    assert all(ip in found for ip in ips.values())
    assert ips["db-1"] in ask(shop, "nslookup", "-type=a", "db-1.db.default.svc.cluster.local")
    assert "db-0.db" in ask(shop, "nslookup", "-type=srv", "_tcp._tcp.db.default.svc.cluster.local")
    dashed = ips["db-0"].replace(".", "-")
    assert ips["db-0"] in ask(shop, "nslookup", "-type=a", f"{dashed}.default.pod.cluster.local")
    assert "10.44." in ask(shop, "nslookup", "-type=a", "early")
    assert "canonical name: web.default.svc.cluster.local" in ask(shop, "nslookup", "alias")
    assert json.loads(curl(shop, "http://alias/"))["method"] == "GET"


def test_a_stateful_pod_finds_its_data_again(shop: Mesh) -> None:
    ask(shop, "sh", "-c", "echo kept > /data/x", pod="db-1")
    before = json.loads(shop.kubectl("get", "pod", "db-1", "-o", "json"))["metadata"]["uid"]
    shop.kubectl("delete", "pod", "db-1", "--now")
    shop.kubectl("rollout", "status", "sts/db", "--timeout=60s")
    after = json.loads(shop.kubectl("get", "pod", "db-1", "-o", "json"))["metadata"]["uid"]
    assert before != after
    assert ask(shop, "cat", "/data/x", pod="db-1") == "kept\n"
    assert ask(shop, "sh", "-c", "ls /data", pod="db-0") == ""
    claimed = shop.kubectl("get", "pvc", "data-db-1", "-o", "jsonpath={.status.phase}")
    assert claimed == "Bound"
    assert ask(shop, "sh", "-c", "echo world | nc -w 2 db-1.db 9000") == "hello world\n"


async def test_a_rollout_drops_no_request(shop: Mesh) -> None:
    ip = service(shop, "web")["spec"]["clusterIP"]
    async with Load(f"http://{ip}/", keeps_alive=False) as load:
        await load.reach(100)
        shop.kubectl("rollout", "restart", "deploy/web")
        await asyncio.to_thread(shop.kubectl, "rollout", "status", "deploy/web", "--timeout=60s")
        await load.reach(100)
    assert load.failures == {}
    assert load.answers[200] > 300


def test_programs_answer_as_their_images_do(shop: Mesh) -> None:
    said = json.loads(curl(shop, "http://tools:8080/headers", "-H", "X-One: 1"))
    assert said["headers"]["X-One"] == ["1"]
    said = json.loads(curl(shop, "http://tools:8000/headers", "-H", "X-One: 1"))
    assert said["headers"]["X-One"] == "1"
    codes = curl(shop, "http://tools:8080/status/418", "-o", "/dev/null", "-w", "%{http_code}")
    assert codes == "418"
    assert curl(shop, "http://tools:5678/") == "hello\n"
    assert "a page of mine" in curl(shop, "http://tools/")
    said = json.loads(curl(shop, "http://tools:7070/z", "--http2-prior-knowledge"))
    assert (said["protocol"], said["path"]) == ("HTTP/2", "/z")


def test_fortio_measures(shop: Mesh) -> None:
    said = shop.kubectl(
        "exec", "visitor", "-c", "fortio", "--", "/usr/bin/fortio", "load", "-c", "3", "-qps", "0",
        "-n", "30", "-loglevel", "Warning", "http://tools:8080/status/503",
    )  # fmt: skip
    assert "Code 503 : 30 (100.0 %)" in said
    assert re.search(r"# target 99% \d", said)


def test_a_pod_reaches_the_api_with_its_own_token(shop: Mesh) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f'curl -sS --cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)" '
        "https://kubernetes.default.svc/version"
    )
    assert "gitVersion" in ask(shop, "sh", "-c", script)


def test_a_job_and_a_cron_job_run_to_their_end(shop: Mesh) -> None:
    shop.kubectl("create", "cronjob", "tick", "--image=busybox", "--schedule=*/1 * * * *", "--",
                 "echo", "tock")  # fmt: skip
    shop.kubectl("create", "job", "now", "--from=cronjob/tick")
    shop.kubectl("wait", "--for=condition=Complete", "job/now", "--timeout=30s")
    assert shop.kubectl("logs", "job/now") == "tock\n"
    shop.kubectl("delete", "cronjob/tick")


async def test_a_cordoned_node_takes_no_pods(shop: Mesh) -> None:
    shop.kubectl("cordon", "meltemi")
    shop.kubectl("run", "outcast", "--image=meltemi/sleep")

    def is_refused() -> bool:
        return "unschedulable" in shop.kubectl("describe", "pod", "outcast")

    await until(is_refused)
    assert "Pending" in shop.kubectl("get", "pod", "outcast")
    shop.kubectl("uncordon", "meltemi")
    shop.kubectl("wait", "--for=condition=Ready", "pod/outcast", "--timeout=30s")
    shop.kubectl("delete", "pod", "outcast", "--now")


def test_pods_start_fast(shop: Mesh) -> None:
    began = time.monotonic()
    shop.kubectl("create", "deploy", "many", "--image=meltemi/sleep", "--replicas=20")
    shop.kubectl("rollout", "status", "deploy/many", "--timeout=60s")
    print(f"20 pods in {time.monotonic() - began:.1f} s")
    shop.kubectl("delete", "deploy", "many")
