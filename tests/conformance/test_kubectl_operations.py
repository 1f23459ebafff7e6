"""kubectl's commands for running things: nodes, rollouts, parts of objects, events, and refusals.

What needs pods that run (exec, attach, cp, debug, logs, port-forward, top) is in tests/real.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import REAL, Cluster

Json = dict[str, Any]
embedded_only = pytest.mark.skipif(
    bool(REAL), reason="a real cluster has nodes and controllers, which change things meanwhile"
)


def apply(cluster: Cluster, *objects: Json) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", "-f", "-", text=json.dumps(items))


def got(cluster: Cluster, *argv: str) -> Json:
    found: Json = json.loads(cluster.kubectl("get", *argv, "-o", "json"))
    return found


def config_map(name: str, labels: Json | None = None, **data: str) -> Json:
    meta = {"name": name, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@embedded_only
def test_nodes_are_cordoned_tainted_and_drained(cluster: Cluster) -> None:
    run = cluster.kubectl
    labels = {"app": "drained"}
    spec = {"nodeName": "shed", "containers": [{"name": "main", "image": "busybox"}]}
    meta = {"name": "guest", "labels": labels}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    budget = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
              "metadata": {"name": "guests"},
              "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}}  # fmt: skip
    apply(cluster, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "shed"}}, pod, budget)
    assert "cordoned" in run("cordon", "shed")
    assert "SchedulingDisabled" in run("get", "node", "shed")
    assert "uncordoned" in run("uncordon", "shed")
    run("taint", "node", "shed", "for=me:NoSchedule")
    assert got(cluster, "node", "shed")["spec"]["taints"][0]["effect"] == "NoSchedule"
    run("taint", "node", "shed", "for-")
    for what, status in (
        ("pod/guest", {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        ("pdb/guests", {"disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1,
                        "expectedPods": 1, "observedGeneration": 1}),
    ):  # fmt: skip
        run("patch", what, "--subresource=status", "--type=merge",
            "-p", json.dumps({"status": status}))  # fmt: skip
    drain = ("drain", "shed", "--force", "--grace-period=0", "--timeout=1s")
    assert "disruption budget" in cluster.refused(*drain)
    run("delete", "pdb", "guests")
    assert "drained" in run(*drain[:-1], "--timeout=20s")
    assert "not found" in cluster.refused("get", "pod", "guest")
    run("delete", "node", "shed")


@embedded_only
def test_rollouts_are_listed_and_taken_back(cluster: Cluster) -> None:
    """The replica sets are made here, as a controller would."""
    run, word = cluster.kubectl, "deployment.kubernetes.io/revision"
    run("create", "deployment", "rolled", "--image=busybox:2", "--replicas=0")
    run("annotate", "deployment/rolled", f"{word}=2", "--overwrite")
    meta = got(cluster, "deployment", "rolled")["metadata"]
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "rolled", "uid": meta["uid"],
             "controller": True}  # fmt: skip
    labels = {"app": "rolled"}
    for revision in ("1", "2"):
        container = {"name": "busybox", "image": f"busybox:{revision}"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        about = {"name": f"rolled-{revision}", "labels": labels, "ownerReferences": [owner],
                 "annotations": {word: revision}}  # fmt: skip
        apply(cluster, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": about,
                        "spec": {"replicas": 0, "selector": {"matchLabels": labels},
                                 "template": template}})  # fmt: skip
    listed = run("rollout", "history", "deployment/rolled").splitlines()[2:4]
    assert [line.split()[0] for line in listed] == ["1", "2"]
    assert "busybox:1" in run("rollout", "history", "deployment/rolled", "--revision=1")
    run("rollout", "undo", "deployment/rolled", "--to-revision=1")
    spec = got(cluster, "deployment", "rolled")["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "busybox:1"
    assert "Waiting" in cluster.refused("rollout", "status", "deployment/rolled", "--timeout=1s")
    run("delete", "deployment", "rolled")


def test_events_are_shown_for_their_object(cluster: Cluster) -> None:
    about = {"kind": "ConfigMap", "apiVersion": "v1", "name": "talked-about",
             "namespace": cluster.namespace}  # fmt: skip
    apply(cluster, {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "said.1"},
                    "involvedObject": about, "reason": "Said", "message": "hello there",
                    "type": "Warning", "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z",
                    "lastTimestamp": "2026-01-01T00:01:00Z"})  # fmt: skip
    assert "hello there" in cluster.kubectl("events", "--for", "configmap/talked-about")
    assert "hello there" in cluster.kubectl("events", "--types=Warning")
    assert "hello there" not in cluster.kubectl("events", "--types=Normal")
    cluster.kubectl("delete", "event", "said.1")


@embedded_only
def test_waiting_ends_by_condition_field_creation_and_deletion(cluster: Cluster) -> None:
    run = cluster.kubectl
    run("create", "deployment", "awaited", "--image=busybox", "--replicas=0")
    assert "timed out" in cluster.refused(
        "wait", "deployment/awaited", "--for=condition=Available", "--timeout=1s"
    )
    condition = {"type": "Available", "status": "True"}
    run("patch", "deployment", "awaited", "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": {"conditions": [condition]}}))  # fmt: skip
    for what in ("condition=Available", "jsonpath={.spec.replicas}=0", "create"):
        assert run("wait", "deployment/awaited", f"--for={what}", "--timeout=5s")
    run("delete", "deployment", "awaited", "--wait=false")
    assert run("wait", "deployment/awaited", "--for=delete", "--timeout=5s") is not None


def test_labels_and_annotations_are_not_overwritten_by_mistake(cluster: Cluster) -> None:
    run = cluster.kubectl
    apply(cluster, config_map("marked"))
    for verb, word in (("label", "colour"), ("annotate", "example.com/colour")):
        run(verb, "configmap", "marked", f"{word}=blue")
        assert "overwrite" in cluster.refused(verb, "configmap", "marked", f"{word}=red")
        run(verb, "configmap", "marked", f"{word}=red", "--overwrite")
        assert f"{word}=red" in run(verb, "configmap", "marked", "--list")
        assert "has been modified" in cluster.refused(
            verb, "configmap", "marked", f"{word}=green", "--overwrite", "--resource-version=1"
        )
        run(verb, "configmap", "marked", f"{word}-")


@embedded_only
def test_parts_of_objects_are_read_and_changed(cluster: Cluster) -> None:
    run = cluster.kubectl
    run("create", "deployment", "parts", "--image=busybox", "--replicas=0")
    assert json.loads(run("get", "deployment", "parts", "--subresource=scale", "-o", "json"))[
        "kind"
    ] == "Scale"  # fmt: skip
    run("patch", "deployment", "parts", "--subresource=scale", "--type=merge",
        "-p", '{"spec":{"replicas":4}}')  # fmt: skip
    run("patch", "deployment", "parts", "--subresource=status", "--type=merge",
        "-p", '{"status":{"replicas":3}}')  # fmt: skip
    run("edit", "deployment", "parts", "--subresource=status",
        KUBE_EDITOR="sed -i 's/replicas: 3/replicas: 2/'")  # fmt: skip
    found = got(cluster, "deployment", "parts")
    assert (found["spec"]["replicas"], found["status"]["replicas"]) == (4, 2)
    run("set", "serviceaccount", "deployment/parts", "default")
    run("create", "configmap", "settings", "--from-literal=COLOUR=blue")
    run("set", "env", "deployment/parts", "--from=configmap/settings")
    assert "COLOUR" in run("set", "env", "deployment/parts", "--list")
    run("set", "env", "deployment/parts", "COLOUR-")
    run("expose", "deployment/parts", "--port=80")
    run("set", "selector", "service/parts", "app=other")
    assert got(cluster, "service", "parts")["spec"]["selector"] == {"app": "other"}
    run("delete", "deployment,service", "parts")


def test_what_was_applied_is_remembered_pruned_and_kustomized(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = cluster.kubectl
    (tmp_path / "map.yaml").write_text(json.dumps(config_map("base", a="1")))
    (tmp_path / "kustomization.yaml").write_text(
        "namePrefix: my-\nresources: [map.yaml]\nlabels: [{pairs: {made: here}}]\n"
    )
    assert "my-base created" in run("apply", "-k", str(tmp_path))
    assert "No resources found" not in run("get", "configmap", "-l", "made=here")
    assert 'a: "1"' in run("apply", "view-last-applied", "configmap/my-base")
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(config_map("my-base", a="2")))
    run("apply", "set-last-applied", "-f", str(changed), "--create-annotation=true")
    assert 'a: "2"' in run("apply", "view-last-applied", "configmap/my-base")
    run("delete", "-k", str(tmp_path))
    pruned = {"prune": "yes"}
    apply(cluster, config_map("stays", pruned), config_map("goes", pruned))
    text = json.dumps(config_map("stays", pruned))
    said = run("apply", "--prune", "-l", "prune=yes", "--prune-allowlist=core/v1/ConfigMap",
               "-f", "-", text=text)  # fmt: skip
    assert "configmap/goes pruned" in said


def test_objects_are_replaced_and_deleted_in_every_way(cluster: Cluster, tmp_path: Path) -> None:
    run, mine = cluster.kubectl, {"batch": "deleted"}
    apply(cluster, *(config_map(f"doomed-{n}", mine) for n in range(4)))
    before = got(cluster, "configmap", "doomed-0")["metadata"]["uid"]
    text = json.dumps(config_map("doomed-0", mine, a="1"))
    run("replace", "--force", "-f", "-", text=text)
    assert got(cluster, "configmap", "doomed-0")["metadata"]["uid"] != before
    run("delete", "-f", "-", "--dry-run=server", text=text)
    assert got(cluster, "configmap", "doomed-0")
    run("delete", "-f", "-", text=text)
    run("delete", "configmap/doomed-1", "--now")
    held = '{"metadata":{"finalizers":["example.com/hold"]}}'
    run("patch", "configmap", "doomed-2", "--type=merge", "-p", held)
    run("delete", "configmap", "doomed-2", "--wait=false")
    assert "deletionTimestamp" in got(cluster, "configmap", "doomed-2")["metadata"]
    assert "timed out" in cluster.refused("delete", "configmap", "doomed-2", "--timeout=1s")
    run("patch", "configmap", "doomed-2", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    run("delete", "configmap", "-l", "batch=deleted")
    assert got(cluster, "configmap", "-l", "batch=deleted")["items"] == []
    assert "not found" in cluster.refused("delete", "configmap", "doomed-3")
    assert run("delete", "configmap", "doomed-3", "--ignore-not-found") is not None


def test_output_has_every_form(cluster: Cluster) -> None:
    run = cluster.kubectl
    apply(cluster, config_map("formed", a="1"))
    assert run("get", "cm/formed", "-o", "name").strip() == "configmap/formed"
    assert 'a: "1"' in run("get", "cm", "formed", "-o", "yaml")
    assert run("get", "cm", "formed", "-o", "jsonpath={.data.a}") == "1"
    assert run("get", "cm", "formed", "-o", "go-template={{.data.a}}") == "1"
    assert "configmap/formed" in run("get", "cm", "formed", "--show-kind", "--no-headers")
    assert run("get", "cm", "absent", "--ignore-not-found") == ""
    events = run("get", "cm", "formed", "-w", "--output-watch-events", "--request-timeout=1s")
    assert "ADDED" in events
    assert "FIELDS" in run("explain", "deployment", "--recursive")


def test_raw_requests_reach_the_api(cluster: Cluster, tmp_path: Path) -> None:
    run, path = cluster.kubectl, f"/api/v1/namespaces/{cluster.namespace}/configmaps"
    file = tmp_path / "raw.json"
    file.write_text(json.dumps(config_map("raw", a="1")))
    assert json.loads(run("create", "--raw", path, "-f", str(file)))["data"] == {"a": "1"}
    file.write_text(json.dumps(config_map("raw", a="2")))
    assert json.loads(run("replace", "--raw", f"{path}/raw", "-f", str(file)))["data"]["a"] == "2"
    assert json.loads(run("get", "--raw", f"{path}/raw"))["data"] == {"a": "2"}
    assert "Success" in run("delete", "--raw", f"{path}/raw")


def test_rights_are_made_by_commands_and_reconciled(cluster: Cluster) -> None:
    run = cluster.kubectl
    role: Json = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "reconciled", "namespace": cluster.namespace},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}  # fmt: skip
    assert "reconciled" in run("auth", "reconcile", "-f", "-", text=json.dumps(role))
    role["rules"].append({"apiGroups": [""], "resources": ["services"], "verbs": ["list"]})
    run("auth", "reconcile", "-f", "-", text=json.dumps(role))
    assert len(got(cluster, "role", "reconciled")["rules"]) == 2
    run("create", "rolebinding", "reconciled", "--role=reconciled", "--user=ann")
    run("set", "subject", "rolebinding", "reconciled", "--user=bob")
    subjects = got(cluster, "rolebinding", "reconciled")["subjects"]
    assert [s["name"] for s in subjects] == ["ann", "bob"]
    name = f"{cluster.namespace}-readers"
    run("create", "clusterrole", name, "--verb=get", "--resource=pods")
    run("create", "clusterrolebinding", name, f"--clusterrole={name}", "--group=readers")
    assert run("auth", "can-i", "get", "pods", "--as=eve", "--as-group=readers").strip() == "yes"
    run("delete", "clusterrole,clusterrolebinding", name)


def test_certificates_are_approved_and_denied(cluster: Cluster) -> None:
    run = cluster.kubectl
    cases = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text())
    case = next(c for c in cases if c["object"]["kind"] == "CertificateSigningRequest")
    for verb, word in (("approve", "Approved,Issued"), ("deny", "Denied")):
        name = f"conformance-{verb}"
        run("apply", "-f", "-", text=json.dumps({**case["object"], "metadata": {"name": name}}))
        assert "Pending" in run("get", "csr", name)
        run("certificate", verb, name)
        if verb == "approve":
            run("wait", f"csr/{name}", "--for=jsonpath={.status.certificate}", "--timeout=10s")
        assert word in run("get", "csr", name)
        run("delete", "csr", name)


@embedded_only
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("create quota x --hard=pods=1", "could not find the requested resource"),
        ("create priorityclass x --value=1", "could not find the requested resource"),
        ("top pods", "the node does not answer"),
        ("exec lonely -- true", "pod lonely does not have a host assigned"),
        ("logs lonely", "the node does not answer"),
        ("attach lonely", "pod lonely does not have a host assigned"),
        ("port-forward lonely 1:2", "Pending"),
        ("get --raw /api/v1/nodes/x/proxy/", "not supported"),
    ],
)
def test_what_is_not_there_is_said_clearly(cluster: Cluster, command: str, said: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely"},
           "spec": {"containers": [{"name": "main", "image": "busybox"}]}}  # fmt: skip
    apply(cluster, pod)
    assert said in cluster.refused(*command.split())
