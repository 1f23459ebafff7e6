"""IPv6 beside IPv4 on a real mesh: pods, Services, names, and the same mutual TLS over both.

One mesh: `server` and `caller` have sidecars and STRICT holds between them; `plain` has none.
"""

import ipaddress
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from meltemi.local import ipv6
from tests.real.conftest import Mesh, running_mesh
from tests.real.load import until

pytestmark = pytest.mark.skipif(
    not ipv6.is_available(os.environ),
    reason="this kernel has no IPv6, or cannot translate its addresses: nothing here was proven",
)

UDP_ECHO = (
    "import socket as s; u = s.socket(s.AF_INET6, s.SOCK_DGRAM); u.bind(('::', 5353))\n"
    "while True: data, who = u.recvfrom(999); u.sendto(b'udp ' + data, who)"
)
ASK_UDP = (
    "import socket as s, sys\n"
    "u = s.socket(s.AF_INET6, s.SOCK_DGRAM); u.settimeout(5)\n"
    "u.sendto(b'hello', (sys.argv[1], 53)); print(u.recv(99).decode())"
)
ASK_TCP = (
    "import socket as s, sys\n"
    "c = s.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)\n"
    "c.sendall(b'ping'); print(c.recv(99).decode())"
)
HTTP_SIX = (
    "import http.server as h, socket\n"
    "class S(h.HTTPServer): address_family = socket.AF_INET6\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers()\n"
    "        self.wfile.write(self.client_address[0].encode())\n"
    "s = S(('::', 8081), H, bind_and_activate=False)\n"
    "s.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n"
    "s.server_bind(); s.server_activate(); s.serve_forever()"
)
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: six, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8088, name: http, protocol: HTTP}, hosts: ["six.example.com"], bind: "::"}
  - {port: {number: 8089, name: http-any, protocol: HTTP}, hosts: ["six.example.com"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gate, namespace: shop}
spec:
  hosts: [six.example.com]
  gateways: [six]
  http: [{route: [{destination: {host: six, port: {number: 80}}}]}]
"""
MANIFEST = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{istio-injection: enabled}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, namespace: shop, labels: {{app: server}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: meltemi/echo
    args: ["--port", "8080", "--tcp-port", "9000"]
    readinessProbe: {{httpGet: {{path: /health, port: 8080}}, periodSeconds: 1}}
  - name: six-only
    image: python
    command: [python3, "-c", {json.dumps(HTTP_SIX)}]
---
apiVersion: v1
kind: Pod
metadata:
  name: caller
  namespace: shop
  labels: {{app: caller}}
  annotations:
    proxy.istio.io/config: '{{"proxyMetadata": {{"ISTIO_META_DNS_CAPTURE": "true"}}}}'
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: curlimages/curl
    command: [sleep, infinity]
    env:
    - {{name: IPS, valueFrom: {{fieldRef: {{fieldPath: status.podIPs}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: plain, namespace: shop, labels: {{app: plain, sidecar.istio.io/inject: "false"}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: curlimages/curl, command: [sleep, infinity]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: open, namespace: shop, labels: {{app: open, sidecar.istio.io/inject: "false"}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: main, image: meltemi/echo, args: ["--port", "8080"]}}
  - {{name: udp, image: python, command: [python3, "-c", {json.dumps(UDP_ECHO)}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: both, namespace: shop}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{app: server}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: http-six, port: 81, targetPort: 8081}}
  - {{name: tcp, port: 9000}}
---
apiVersion: v1
kind: Service
metadata: {{name: six, namespace: shop}}
spec:
  ipFamilies: [IPv6]
  selector: {{app: server}}
  ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: tcp, port: 9000}}]
---
apiVersion: v1
kind: Service
metadata: {{name: pods, namespace: shop}}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {{app: server}}
  ports: [{{name: http, port: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: open, namespace: shop}}
spec:
  type: NodePort
  ipFamilies: [IPv6, IPv4]
  ipFamilyPolicy: RequireDualStack
  selector: {{app: open}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: udp, port: 53, targetPort: 5353, protocol: UDP}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named, namespace: shop}}
spec:
  hosts: [named.example.com]
  resolution: STATIC
  location: MESH_EXTERNAL
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]
  endpoints: [{{address: OPEN}}]
"""


@pytest.fixture(scope="module")
def shop(own_network: None) -> Iterator[Mesh]:
    for mesh in running_mesh():
        entry = MANIFEST.rindex("---")
        mesh.apply(MANIFEST[:entry])
        mesh.kubectl("wait", "-n", "shop", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        mesh.apply(MANIFEST[entry:].replace("OPEN", addresses(mesh, "open")[1]))
        mesh.apply(GATEWAY, "gateway/six.shop", "virtualservice/gate.shop")
        mesh.meltemi("wait", "--for=distribution", "serviceentry/named.shop")
        yield mesh
        assert [line for proxy in mesh.proxies() for line in proxy["rejected"]] == []


def read(mesh: Mesh, *words: str) -> Any:
    return json.loads(mesh.kubectl("get", "-n", "shop", "-o", "json", *words))


@cache
def addresses(mesh: Mesh, pod: str) -> list[str]:
    return [item["ip"] for item in read(mesh, "pod", pod)["status"]["podIPs"]]


@cache
def cluster_ips(mesh: Mesh, service: str) -> list[str]:
    found: list[str] = read(mesh, "svc", service)["spec"]["clusterIPs"]
    return found


def run_in(mesh: Mesh, pod: str, *argv: str) -> str:
    return mesh.kubectl("exec", "-n", "shop", pod, "--", *argv)


def curl(mesh: Mesh, pod: str, url: str, *options: str) -> str:
    return run_in(mesh, pod, "curl", "-gsS", "-m", "15", *options, url)


def fails(mesh: Mesh, pod: str, url: str) -> bool:
    argv = ("kubectl", "exec", "-n", "shop", pod, "--", "curl", "-gsS", "-m", "5", url)
    return mesh.result(*argv).returncode != 0


def looked_up(mesh: Mesh, name: str, kind: str, pod: str = "plain") -> list[str]:
    said = run_in(mesh, pod, "nslookup", f"-type={kind}", name)
    return re.findall(r"^Address: (\S+)$", said, re.MULTILINE)


def test_pods_have_both_addresses_and_know_them(shop: Mesh) -> None:
    four, six = addresses(shop, "caller")
    assert ipaddress.ip_address(four) in ipaddress.ip_network("10.44.0.0/16")
    assert ipaddress.ip_address(six) in ipaddress.ip_network("fd00:10:44::/64")
    assert run_in(shop, "caller", "sh", "-c", "echo $IPS").strip() == f"{four},{six}"
    hosts = run_in(shop, "caller", "cat", "/etc/hosts")
    assert f"{four}\tcaller\n{six}\tcaller\n" in hosts
    node = json.loads(shop.kubectl("get", "nodes", "-o", "json"))["items"][0]
    inside = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    assert inside == ["10.44.0.1", "fd00:10:44::1"]


def test_a_service_has_addresses_and_slices_of_its_families(shop: Mesh) -> None:
    both = read(shop, "svc", "both")["spec"]
    assert both["ipFamilies"] == ["IPv4", "IPv6"]
    four, six = both["clusterIPs"]
    assert (four, ":" in six) == (both["clusterIP"], True)
    slices = read(shop, "endpointslices", "-l", "kubernetes.io/service-name=both")["items"]
    found = {s["addressType"]: s["endpoints"][0]["addresses"] for s in slices}
    server = addresses(shop, "server")
    assert found == {"IPv4": server[:1], "IPv6": server[1:]}
    assert read(shop, "svc", "six")["spec"]["ipFamilies"] == ["IPv6"]
    assert cluster_ips(shop, "six")[0].startswith("fd00:10:43::")
    described = shop.kubectl("describe", "svc", "-n", "shop", "both")
    assert re.search(r"IP Family Policy:\s+RequireDualStack", described)
    assert six in described


def test_without_a_sidecar_tcp_and_udp_reach_an_ipv6_address(shop: Mesh) -> None:
    ip, four = cluster_ips(shop, "open")
    assert json.loads(curl(shop, "plain", f"http://[{ip}]/"))["hostname"] == "open"
    assert run_in(shop, "plain", "python3", "-c", ASK_UDP, ip).strip() == "udp hello"
    port = read(shop, "svc", "open")["spec"]["ports"][0]["nodePort"]
    assert json.loads(curl(shop, "plain", f"http://[fd00:10:44::1]:{port}/"))
    assert json.loads(curl(shop, "plain", f"http://10.44.0.1:{port}/"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
        assert json.load(reply)["hostname"] == "open"
    for host in (f"[{ip}]", four):
        assert json.loads(curl(shop, "open", f"http://{host}/"))["hostname"] == "open"


def test_names_have_addresses_of_each_family(shop: Mesh) -> None:
    four, six = cluster_ips(shop, "both")
    assert looked_up(shop, "both", "a") == [four]
    assert looked_up(shop, "both", "aaaa") == [six]
    assert looked_up(shop, "six", "aaaa") == cluster_ips(shop, "six")
    assert looked_up(shop, "pods", "aaaa") == addresses(shop, "server")[1:]
    dashed = addresses(shop, "server")[1].replace(":", "-")
    assert looked_up(shop, f"{dashed}.pods", "aaaa") == addresses(shop, "server")[1:]


def test_names_are_answered_over_ipv6(shop: Mesh) -> None:
    """By the node, and where questions are captured by the pod's own port 15053."""
    for pod in ("plain", "caller"):
        said = run_in(shop, pod, "nslookup", "-type=aaaa", "six", "fd00:10:44::1")
        assert cluster_ips(shop, "six")[0] in said


def test_an_application_that_listens_over_ipv6_alone_is_reached(shop: Mesh) -> None:
    four, six = cluster_ips(shop, "both")
    for host in (four, f"[{six}]"):
        assert curl(shop, "caller", f"http://{host}:81/") == "::6"


def test_a_gateway_listens_over_ipv6(shop: Mesh) -> None:
    pod = read(shop, "pods", "-n", "istio-system", "-l", "istio=ingressgateway")["items"][0]
    four, six = (item["ip"] for item in pod["status"]["podIPs"])
    host = ("-H", "Host: six.example.com")
    for place in (f"[{six}]:8088", f"[{six}]:8089", f"{four}:8089"):
        assert json.loads(curl(shop, "plain", f"http://{place}/", *host))["hostname"] == "server"
    assert fails(shop, "plain", f"http://{four}:8088/")


def test_sidecars_speak_mutual_tls_over_ipv6(shop: Mesh) -> None:
    before = tls_requests(shop)
    for url in ("http://six/", f"http://[{cluster_ips(shop, 'both')[1]}]/", "http://pods:8080/"):
        answer = json.loads(curl(shop, "caller", url, "-6"))
        assert answer["hostname"] == "server"
        assert "By=spiffe://" in answer["headers"]["x-forwarded-client-cert"]
    assert tls_requests(shop) == before + 3


def tls_requests(mesh: Mesh) -> int:
    """What the server's proxy counted from the caller, in mutual TLS."""
    text = curl(mesh, "server", "http://localhost:15020/stats/prometheus")
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("istio_requests_total{")
        and 'source_workload="caller"' in line
        and 'connection_security_policy="mutual_tls"' in line
    ]
    return sum(int(line.rpartition(" ")[2]) for line in lines)


def test_raw_bytes_reach_an_ipv6_address_through_sidecars(shop: Mesh) -> None:
    for ip in (cluster_ips(shop, "six")[0], cluster_ips(shop, "both")[1]):
        assert run_in(shop, "caller", "python3", "-c", ASK_TCP, ip, "9000").strip() == "ping"


def test_strict_refuses_plaintext_over_ipv6(shop: Mesh) -> None:
    four, six = addresses(shop, "server")
    for host in (four, f"[{six}]"):
        assert fails(shop, "plain", f"http://{host}:8080/")
    assert fails(shop, "plain", f"http://[{cluster_ips(shop, 'six')[0]}]/")
    assert fails(shop, "plain", f"http://[{six}]:9000/")
    assert not fails(shop, "plain", f"http://[{addresses(shop, 'open')[1]}]:8080/")


def test_a_pod_that_calls_itself_meets_its_own_policies(shop: Mesh) -> None:
    answer = json.loads(curl(shop, "server", f"http://[{cluster_ips(shop, 'six')[0]}]/"))
    assert "server" in answer["headers"]["x-forwarded-client-cert"]


def test_an_entry_is_found_by_its_allocated_ipv6_address(shop: Mesh) -> None:
    (found,) = looked_up(shop, "named.example.com", "aaaa", "caller")
    assert ipaddress.ip_address(found) in ipaddress.ip_network("2001:2::/48")
    answer = json.loads(curl(shop, "caller", "http://named.example.com/", "-6"))
    assert answer["hostname"] == "open"


async def test_a_sidecar_passes_on_what_it_does_not_know(shop: Mesh) -> None:
    six = addresses(shop, "open")[1]
    assert json.loads(curl(shop, "caller", f"http://[{six}]:8080/"))["hostname"] == "open"


def test_the_way_to_an_ipv6_address_is_explained(shop: Mesh) -> None:
    said = shop.meltemi(
        "explain", "--from", "caller.shop", f"http://[{cluster_ips(shop, 'six')[0]}]:80/"
    )
    assert "outbound|80||six.shop.svc.cluster.local" in said
    assert f"{addresses(shop, 'server')[1]}:8080" in said


async def test_a_second_family_comes_and_goes(shop: Mesh) -> None:
    def patched(policy: str) -> Any:
        spec = json.dumps({"spec": {"ipFamilyPolicy": policy}})
        said = shop.kubectl("patch", "svc", "-n", "shop", "six", "-o", "json", "-p", spec)
        return json.loads(said)["spec"]["clusterIPs"]

    six, four = patched("PreferDualStack")
    await until(lambda: looked_up(shop, "six", "a") == [four])
    await until(lambda: not fails(shop, "caller", f"http://{four}/"))
    assert patched("SingleStack") == [six]
    slices = ("endpointslices", "-l", "kubernetes.io/service-name=six")
    await until(lambda: len(read(shop, *slices)["items"]) == 1)
