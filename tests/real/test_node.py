"""What the node does for pods, seen with kubectl: containers, probes, volumes, ends.

Every pod of this module is made at once; each test waits for what it is about.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.oci_layout import Layout, directory, file, machine_tools
from tests.real.conftest import Mesh

Pod = dict[str, Any]


class Node:
    """The pods of the module."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

    def pod(self, name: str) -> Pod:
        found: Pod = json.loads(self.mesh.kubectl("get", "pod", name, "-o", "json"))
        return found

    def status(self, name: str, container: str = "main") -> Pod:
        status = self.pod(name)["status"]
        every = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        return next((s for s in every if s["name"] == container), {})

    def until(self, holds: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(self.mesh.kubectl("get", "pods") + self.mesh.kubectl("get", "events"))
            time.sleep(0.1)

    def wait(self, name: str, condition: str) -> None:
        self.mesh.kubectl("wait", f"--for={condition}", f"pod/{name}", "--timeout=40s")

    def phase(self, name: str, phase: str) -> None:
        self.wait(name, f"jsonpath={{.status.phase}}={phase}")

    def exec(self, name: str, *argv: str) -> str:
        return self.mesh.kubectl("exec", name, "--", *argv)

    def events(self, name: str) -> str:
        return self.mesh.kubectl("describe", "pod", name).partition("Events:")[2]


@pytest.fixture(scope="module")
def node(platform: Mesh) -> Node:
    manifests = "---\n".join((MANIFEST, *map(broken, BROKEN)))
    platform.kubectl("apply", "-f", "-", text=manifests)
    return Node(platform)


MANIFEST = """
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {sky: blue, sea: green}
---
apiVersion: v1
kind: Pod
metadata: {name: helped}
spec:
  restartPolicy: Never
  initContainers:
  - name: first
    image: busybox
    command: [sh, -c, "test ! -e /shared/up && echo first"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: helper
    image: busybox
    restartPolicy: Always
    command: [sh, -c]
    args: ["trap 'echo bye; exit 0' TERM; sleep 1; touch /shared/up; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -f, /shared/up]}, periodSeconds: 1}
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: second
    image: busybox
    command: [sh, -c, "test -e /shared/up && echo second"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "echo main; echo well done > /dev/termination-log"]
  volumes: [{name: shared, emptyDir: {}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: helped}
spec:
  template:
    spec:
      restartPolicy: Never
      initContainers:
      - {name: helper, image: meltemi/sleep, restartPolicy: Always}
      containers: [{name: main, image: busybox, command: [sh, -c, "exit 0"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers:
  - name: main
    image: busybox
    terminationMessagePolicy: FallbackToLogsOnError
    command: [sh, -c, "echo run; echo last words; exit 7"]
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "tail /dev/zero"]
    resources: {limits: {memory: 32Mi, cpu: 500m}}
---
apiVersion: v1
kind: Pod
metadata: {name: wordless}
spec:
  restartPolicy: Never
  containers: [{name: main, image: busybox, command: [no-such-program]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  containers: [{name: main, image: "example.com/stranger:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: waiting}
spec:
  containers:
  - name: main
    image: busybox
    command: [sleep, infinity]
    volumeMounts: [{name: late, mountPath: /late}]
  volumes: [{name: late, configMap: {name: late}}]
---
apiVersion: v1
kind: Pod
metadata: {name: short-lived}
spec:
  activeDeadlineSeconds: 2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: meltemi/echo
    args: [--port, "8080"]
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {httpGet: {path: /health, port: web}, periodSeconds: 1}
    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: web}, periodSeconds: 1}
    lifecycle: {postStart: {exec: {command: [sh, -c, "touch /tmp/started"]}}}
  - name: ill
    image: busybox
    command: [sleep, infinity]
    livenessProbe:
      exec: {command: [sh, -c, "echo feeling bad; exit 1"]}
      periodSeconds: 1
      failureThreshold: 1
  - name: called
    image: meltemi/grpc-echo
    readinessProbe: {grpc: {port: 7070}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: configured, labels: {tier: one}}
spec:
  hostname: tall
  subdomain: ships
  hostAliases: [{ip: 192.0.2.1, hostnames: [harbour]}]
  dnsConfig: {searches: [example.org], options: [{name: ndots, value: "2"}]}
  containers:
  - name: main
    image: busybox
    command: [sleep, infinity]
    env:
    - {name: SKY, valueFrom: {configMapKeyRef: {name: settings, key: sky}}}
    - {name: GONE, valueFrom: {configMapKeyRef: {name: nothing, key: x, optional: true}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: SAYS, value: "the sky is $(SKY)"}
    resources: {limits: {memory: 64Mi}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /one, subPath: sky}
    - {name: labels, mountPath: /labels}
    - {name: all, mountPath: /all}
    - {name: fast, mountPath: /fast}
  volumes:
  - name: settings
    configMap:
      name: settings
      items: [{key: sky, path: deep/sky, mode: 0400}, {key: sky, path: sky}]
  - {name: labels, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: fast, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings}
      - secret: {name: nothing, optional: true}
      - serviceAccountToken: {path: token, audience: harbour, expirationSeconds: 600}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, supplementalGroups: [3000]}
  containers:
  - name: main
    image: busybox
    command: [sleep, infinity]
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
    volumeMounts: [{name: own, mountPath: /own}, {name: settings, mountPath: /settings}]
  volumes:
  - {name: own, emptyDir: {}}
  - {name: settings, configMap: {name: settings, defaultMode: 0400}}
---
apiVersion: v1
kind: Pod
metadata: {name: proud}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 0}
  containers: [{name: main, image: busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  containers: [{name: main, image: busybox, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "date >> /kept/starts; wc -l < /kept/starts; sleep infinity"]
    volumeMounts: [{name: kept, mountPath: /kept}]
  volumes: [{name: kept, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: held, finalizers: [example.com/hold]}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
---
apiVersion: batch/v1
kind: Job
metadata: {name: picky}
spec:
  backoffLimit: 9
  podFailurePolicy:
    rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: busybox, command: [sh, -c, "exit 42"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: sender}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: python
    command: [python3, -c]
    args:
    - |
      import socket, time
      sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
      sock.settimeout(0.2)
      heard = b""
      while True:
          try:
              sock.sendto(b"who", ("10.43.77.77", 53))
              said = sock.recv(99)
          except OSError:
              continue
          if said != heard:
              heard = said
              print(said.decode(), flush=True)
          time.sleep(0.05)
"""

BROKEN = {
    "no-map": (
        "containers: [{name: main, image: busybox, env: [{name: SKY, valueFrom: "
        "{configMapKeyRef: {name: nowhere, key: sky}}}]}]",
        'Error: env SKY: ConfigMap "nowhere" not found in namespace default; '
        "the container starts once it is there",
    ),
    "no-key": (
        "containers: [{name: main, image: busybox, env: [{name: SKY, valueFrom: "
        "{configMapKeyRef: {name: settings, key: stars}}}]}]",
        'env SKY: key "stars" of ConfigMap "settings" not found',
    ),
    "no-secret": (
        "containers: [{name: main, image: busybox, envFrom: [{secretRef: {name: nowhere}}]}]",
        'envFrom[0]: Secret "nowhere" not found',
    ),
    "no-claim": (
        "containers: [{name: main, image: busybox}]\n"
        "  volumes: [{name: data, persistentVolumeClaim: {claimName: nowhere}}]",
        'volume "data": PersistentVolumeClaim "nowhere" not found',
    ),
    "no-path": (
        "containers: [{name: main, image: busybox}]\n"
        "  volumes: [{name: data, hostPath: {path: /no/such}}]",
        'volume "data": hostPath /no/such does not exist on this machine; make it',
    ),
    "no-nfs": (
        "containers: [{name: main, image: busybox}]\n"
        "  volumes: [{name: data, nfs: {server: files, path: /}}]",
        'volume "data": nfs is not served on one machine; use emptyDir',
    ),
    "no-right": (
        "containers: [{name: main, image: busybox, securityContext: {capabilities: {add: [FLY]}}}]",
        "securityContext.capabilities.add: FLY is no capability",
    ),
    "no-place": (
        "nodeSelector: {disk: ssd}\n  containers: [{name: main, image: busybox}]",
        "spec.nodeSelector wants disk=ssd: `kubectl label node meltemi disk=ssd` lets it",
    ),
    "no-port": (
        "containers: [{name: main, image: meltemi/sleep, ports: [{containerPort: 80, "
        "hostPort: 80}]}]",
        "hostPort is not served: publish the port by a Service",
    ),
    "no-hook": (
        "containers: [{name: main, image: meltemi/sleep, lifecycle: {postStart: "
        '{exec: {command: [sh, -c, "echo not today; exit 1"]}}}}]',
        "postStart hook failed: not today",
    ),
    "no-answer": (
        "containers: [{name: main, image: meltemi/sleep, readinessProbe: "
        "{httpGet: {port: web}, periodSeconds: 1}}]",
        "Readiness probe failed: port web: no port of the container has this name",
    ),
    "no-directory": (
        "containers: [{name: main, image: busybox, workingDir: /no/such}]",
        "workingDir /no/such: No such file or directory",
    ),
}
"""Pods with one fault each: the rest of their spec, and what an event has to say."""


def broken(name: str) -> str:
    head = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n"
    return f"{head}  terminationGracePeriodSeconds: 1\n  {BROKEN[name][0]}\n"


ANSWERING = """
apiVersion: v1
kind: Service
metadata: {name: names}
spec:
  clusterIP: 10.43.77.77
  selector: {app: names}
  ports: [{port: 53, targetPort: 5353, protocol: UDP}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: names}
spec:
  selector: {matchLabels: {app: names}}
  template:
    metadata: {labels: {app: names}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: python
        command: [python3, -c]
        args:
        - |
          import os, socket
          sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
          sock.bind(("", 5353))
          while True:
              data, who = sock.recvfrom(99)
              sock.sendto(os.uname().nodename.encode(), who)
"""


def test_sidecars_start_before_and_end_after_the_application(node: Node) -> None:
    node.phase("helped", "Succeeded")
    logs = {c: node.mesh.kubectl("logs", "helped", "-c", c) for c in ("first", "second", "main")}
    assert logs == {"first": "first\n", "second": "second\n", "main": "main\n"}
    assert node.mesh.kubectl("logs", "helped", "-c", "helper") == "bye\n"
    assert node.status("helped")["state"]["terminated"]["message"] == "well done\n"
    assert node.status("helped", "helper")["state"]["terminated"]["exitCode"] == 0
    node.mesh.kubectl("wait", "--for=condition=Complete", "job/helped", "--timeout=30s")


def test_a_failure_policy_ends_a_job_at_once(node: Node) -> None:
    node.mesh.kubectl("wait", "--for=condition=Failed", "job/picky", "--timeout=30s")
    status = json.loads(node.mesh.kubectl("get", "job", "picky", "-o", "json"))["status"]
    assert (status["failed"], status["conditions"][-1]["reason"]) == (1, "PodFailurePolicy")
    assert "container main, which ended with code 42" in status["conditions"][-1]["message"]
    assert "Failed" in node.mesh.kubectl("get", "job", "picky", "--no-headers")
    node.mesh.kubectl("delete", "job", "picky")
    node.until(lambda: not node.mesh.kubectl("get", "pods", "-l", "job-name=picky", "-o", "name"))


def test_a_pod_that_others_keep_ends_and_says_how(node: Node) -> None:
    node.wait("held", "condition=Ready")
    node.mesh.kubectl("delete", "pod", "held", "--wait=false")
    node.phase("held", "Succeeded")
    assert node.status("held")["state"]["terminated"]["exitCode"] == 0
    node.mesh.kubectl("annotate", "pod", "held", "seen=true")
    assert node.status("held")["restartCount"] == 0
    node.mesh.kubectl("patch", "pod", "held", "-p", '{"metadata":{"finalizers":null}}')
    node.mesh.kubectl("wait", "--for=delete", "pod/held", "--timeout=20s")


def test_a_crash_is_restarted_with_back_off_and_its_log_is_kept(node: Node) -> None:
    node.until(lambda: node.status("crashing")["state"].get("waiting", {}).get("reason")
               == "CrashLoopBackOff")  # fmt: skip
    status = node.status("crashing")
    assert status["restartCount"] >= 1
    last = status["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (7, "Error")
    assert last["message"] == "run\nlast words\n"
    assert node.mesh.kubectl("logs", "crashing", "--previous") == "run\nlast words\n"
    assert "Back-off restarting failed container" in node.events("crashing")


def test_memory_is_limited_where_the_machine_lets_us(node: Node) -> None:
    described = node.mesh.kubectl("describe", "node", "meltemi")
    if "does not limit" in described:
        pytest.skip("no control groups for us on this machine")
    node.phase("hungry", "Failed")
    ended = node.status("hungry")["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    node.until(lambda: "resources.limits.memory, 32Mi, and was killed" in node.events("hungry"))


def test_a_command_that_is_not_there_is_named(node: Node) -> None:
    node.phase("wordless", "Failed")
    ended = node.status("wordless")["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("StartError", 128)
    assert "no-such-program" in ended["message"]
    said = "give the container a command that is there"
    node.until(lambda: said in node.events("wordless"))


def test_an_image_is_added_to_a_mesh_that_runs(node: Node) -> None:
    node.until(lambda: "image add example.com/stranger:1" in node.events("stranger"))
    assert "BackOff" in node.mesh.kubectl("get", "pod", "stranger")
    node.mesh.meltemi("image", "add", "example.com/stranger", "--program", "sleep")
    node.wait("stranger", "condition=Ready")
    assert "example.com/stranger" in node.mesh.meltemi("image", "list")
    node.mesh.meltemi("image", "remove", "example.com/stranger")
    assert "example.com/stranger" not in node.mesh.meltemi("image", "list")


OCI = """
apiVersion: v1
kind: Pod
metadata: {name: shipped}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: settings, configMap: {name: settings}}]
  containers:
  - name: main
    image: registry.example.com/shop/shipped:1.0
    volumeMounts:
    - {name: settings, mountPath: /conf/settings}
    - {name: settings, mountPath: /srv/settings/sky, subPath: sky}
    readinessProbe: {exec: {command: [cat, /srv/mine]}, periodSeconds: 1}
"""


def test_an_oci_image_is_the_root_of_its_containers(node: Node, tmp_path: Path) -> None:
    script = b"cat /greeting /conf/settings/sky; echo $COLOUR $PWD $(id -u); >/srv/mine; sleep 999"
    layout = Layout(tmp_path / "layout")
    tools = machine_tools("sh", "cat", "id", "ls", "sleep")
    passwd = file("etc/passwd", b"app:x:1234:1234::/:/bin/sh\n")
    extra = [file("greeting", b"hello\n"), file("run.sh", script), passwd]
    config = {
        "Entrypoint": ["sh", "/run.sh"],
        "Env": ["COLOUR=teal", "PATH=/usr/bin:/bin"],
        "WorkingDir": "/srv",
        "User": "app",
    }
    layout.image([tools, [directory("srv", 0o777), *extra]], config)
    archive = layout.archive(tmp_path / "image.tar")
    node.mesh.meltemi("image", "add", "shop/shipped", "--oci", str(archive))
    node.mesh.kubectl("apply", "-f", "-", text=OCI)
    node.wait("shipped", "condition=Ready")
    assert node.mesh.kubectl("logs", "shipped") == "hello\nblueteal /srv 1234\n"
    top = node.exec("shipped", "ls", "/").split()
    assert {"greeting", "srv", "conf"} <= set(top)
    assert not {"home", "root", "opt"} & set(top), "nothing of the machine is there"
    missing = node.mesh.result("kubectl", "exec", "shipped", "--", "python3")
    assert "python3" in missing.stderr
    (root,) = (node.mesh.data / "rootfs").iterdir()
    assert list((root / "srv").iterdir()) == [], "what a container writes is its own"
    node.mesh.kubectl("delete", "pod", "shipped", "--wait=false")
    node.mesh.meltemi("image", "remove", "shop/shipped")


def test_a_missing_volume_is_named_and_waited_for(node: Node) -> None:
    node.until(lambda: 'volume "late": ConfigMap "late" not found' in node.events("waiting"))
    node.mesh.kubectl("create", "configmap", "late", "--from-literal=a=b")
    node.wait("waiting", "condition=Ready")
    assert node.exec("waiting", "cat", "/late/a") == "b"


@pytest.mark.parametrize("name", BROKEN)
def test_events_name_field_reason_and_remedy(node: Node, name: str) -> None:
    node.until(lambda: BROKEN[name][1] in node.events(name))


def test_a_deadline_ends_the_pod(node: Node) -> None:
    node.phase("short-lived", "Failed")
    assert node.pod("short-lived")["status"]["reason"] == "DeadlineExceeded"


def test_who_does_not_listen_is_killed_after_the_grace_period(node: Node) -> None:
    node.wait("stubborn", "condition=Ready")
    began = time.monotonic()
    node.mesh.kubectl("delete", "pod", "stubborn")
    assert 2.0 <= time.monotonic() - began < 8.0


def test_probes_decide_about_ready_and_alive(node: Node) -> None:
    node.until(lambda: node.status("probed").get("started"))
    node.until(lambda: node.status("probed", "called").get("ready"))
    assert node.status("probed")["ready"] is False
    assert node.mesh.kubectl("exec", "probed", "-c", "main", "--", "ls", "/tmp/started")
    node.mesh.kubectl("exec", "probed", "-c", "main", "--", "touch", "/tmp/ready")
    node.until(lambda: node.status("probed")["ready"])
    node.mesh.kubectl("exec", "probed", "-c", "main", "--", "rm", "/tmp/ready")
    node.until(lambda: not node.status("probed")["ready"])
    node.until(lambda: node.status("probed", "ill")["restartCount"] >= 1)
    said = node.events("probed")
    assert "Liveness probe failed: feeling bad" in said
    assert "Container ill failed liveness probe, will be restarted" in said
    assert "Readiness probe failed" in said


def test_pods_find_their_configuration(node: Node) -> None:
    node.wait("configured", "condition=Ready")
    env = node.exec("configured", "env")
    assert "SKY=blue\n" in env
    assert "SAYS=the sky is blue\n" in env
    assert "LIMIT=64\n" in env
    assert "GONE" not in env
    assert node.exec("configured", "cat", "/settings/deep/sky", "/one", "/all/name") == (
        "blueblueconfigured"
    )
    assert node.exec("configured", "stat", "-Lc", "%a", "/settings/deep/sky") == "400\n"
    assert node.exec("configured", "hostname") == "tall\n"
    hosts = node.exec("configured", "cat", "/etc/hosts")
    assert "tall.ships.default.svc.cluster.local tall" in hosts
    assert "192.0.2.1\tharbour" in hosts
    resolver = node.exec("configured", "cat", "/etc/resolv.conf").splitlines()
    assert resolver[1].endswith("cluster.local example.org")
    assert resolver[2] == "options ndots:2"
    full = node.mesh.result("kubectl", "exec", "configured", "--", "sh", "-c",
                            "head -c 2000000 /dev/zero > /fast/big")  # fmt: skip
    assert "No space left" in full.stderr


def test_volumes_follow_their_objects_in_one_step(node: Node) -> None:
    node.wait("configured", "condition=Ready")
    change = json.dumps({"data": {"sky": "grey"}})
    node.mesh.kubectl("patch", "configmap", "settings", "--type=merge", "-p", change)
    node.until(lambda: node.exec("configured", "cat", "/settings/sky", "/all/sky") == "greygrey")
    assert node.exec("configured", "cat", "/one") == "blue"
    assert node.exec("configured", "readlink", "/settings/sky") == "..data/sky\n"
    node.mesh.kubectl("label", "pod", "configured", "tier=two", "--overwrite")
    node.until(lambda: 'tier="two"' in node.exec("configured", "cat", "/labels/labels"))


def test_security_contexts_hold(node: Node) -> None:
    node.wait("modest", "condition=Ready")
    said = node.exec(
        "modest", "sh", "-c", "id -u; id -G; grep -E 'CapEff|NoNewPrivs' /proc/self/status"
    )
    lines = said.split("\n")
    assert lines[0] == "1000"
    assert set(lines[1].split()) == {"1000", "2000", "3000"}
    assert int(lines[2].split()[1], 16) == 0
    assert lines[3].split()[1] == "1"
    refused = node.mesh.result("kubectl", "exec", "modest", "--", "touch", "/usr/new")
    assert "Read-only" in refused.stderr
    assert node.exec("modest", "sh", "-c", "touch /own/x; stat -c %g /own/x; cat /settings/sea; "
                     "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo +") == (
        "2000\ngreen+\n"
    )  # fmt: skip
    node.until(lambda: "runAsNonRoot is set, and runAsUser is 0" in node.events("proud"))


def test_logs_of_what_does_not_run_explain_themselves(node: Node) -> None:
    node.until(lambda: "runAsNonRoot" in node.events("proud"))
    refused = node.mesh.result("kubectl", "logs", "proud")
    assert "waiting to start" in refused.stderr
    missing = node.mesh.result("kubectl", "logs", "modest", "-c", "other")
    assert missing.returncode == 1


def test_a_pod_is_run_and_talked_to(node: Node) -> None:
    said = node.mesh.kubectl("run", "talk", "-i", "--rm", "--restart=Never", "--image=busybox",
                             "--", "sh", "-c", "read x; sleep 0.2; echo got $x",
                             text="hello\n")  # fmt: skip
    assert "got hello" in said


def test_a_debugger_joins_a_pod_that_runs(node: Node) -> None:
    node.wait("once", "condition=Ready")
    node.mesh.kubectl("debug", "once", "--image=busybox", "--container=look", "--profile=general",
                      "--", "sh", "-c", "hostname; id -u")  # fmt: skip
    node.until(lambda: "0" in node.mesh.result("kubectl", "logs", "once", "-c", "look").stdout)
    assert node.mesh.kubectl("logs", "once", "-c", "look") == "once\n0\n"


def test_a_sender_of_datagrams_follows_the_endpoints(node: Node) -> None:
    """One socket: it sends before the Service is there, and goes on after its endpoint ended."""
    node.wait("sender", "condition=Ready")
    node.mesh.kubectl("apply", "-f", "-", text=ANSWERING)
    node.until(lambda: node.mesh.kubectl("logs", "sender").count("names-") == 1)
    first = node.mesh.kubectl("logs", "sender").strip()
    node.mesh.kubectl("delete", "pod", first, "--wait=false")
    node.until(lambda: node.mesh.kubectl("logs", "sender").count("names-") == 2)
    second = node.mesh.kubectl("logs", "sender").split()[1]
    assert second in node.mesh.kubectl("get", "pods", "-l", "app=names")
    node.mesh.kubectl("delete", "deploy/names", "svc/names", "pod/sender", "--wait=false")


def test_top_shows_what_pods_use(node: Node) -> None:
    node.until(lambda: "modest" in node.mesh.result("kubectl", "top", "pods").stdout, 60)
    assert "meltemi" in node.mesh.kubectl("top", "node")


def test_pods_survive_the_node(node: Node) -> None:
    """The node is killed without warning: what ran starts again, what may not has failed."""
    for name in ("keeper", "once"):
        node.wait(name, "condition=Ready")
    before = node.mesh.pid("node")
    os.kill(before, signal.SIGKILL)
    node.until(lambda: node.status("keeper")["restartCount"] >= 1)
    node.wait("keeper", "condition=Ready")
    last = node.status("keeper")["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"]) == ("Unknown", 255)
    node.until(lambda: node.mesh.kubectl("logs", "keeper").strip() == "2")
    node.phase("once", "Failed")
    assert node.mesh.kubectl("logs", "helped", "-c", "main") == "main\n"
