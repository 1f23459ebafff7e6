"""What a pod gets from its ServiceAccount: the account's name, its token, the API's root.

https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
"""

import secrets
from typing import Any

from meltemi.local.apiserver.errors import forbidden
from meltemi.local.apiserver.store import Resource, Store

Json = dict[str, Any]
ROOT_CONFIG_MAP = "kube-root-ca.crt"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
_ACCOUNTS = Resource("", "serviceaccounts")
_VOLUME = "kube-api-access-"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_TOKEN_SECONDS = 3607


def mount_account(store: Store, pod: Json) -> None:
    """Name the pod's account and mount its token in every container that lacks it, in place.

    Runs before webhooks and again after them, for the containers they add. Raises a 403 when
    the account does not exist; `default` is made with its namespace and never missing for long.
    """
    spec, meta = pod["spec"], pod["metadata"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    found = store.get(_ACCOUNTS, meta["namespace"], name)
    if found is None and name != "default":
        raise forbidden(
            f'pods "{meta.get("name") or meta.get("generateName", "")}" is forbidden: error '
            f'looking up service account {meta["namespace"]}/{name}: serviceaccount "{name}" '
            "not found"
        )
    account: Json = found.data if found is not None else {}
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = list(account["imagePullSecrets"])
    if _wants_token(spec, account):
        _mount(spec)


def _wants_token(spec: Json, account: Json) -> bool:
    for source in (spec, account):
        if source.get("automountServiceAccountToken") is not None:
            return bool(source["automountServiceAccountToken"])
    return True


def _mount(spec: Json) -> None:
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    without = [
        container
        for container in containers
        if all(m.get("mountPath") != MOUNT_PATH for m in container.get("volumeMounts") or ())
    ]
    if not without:
        return
    volumes = spec.get("volumes") or []
    volume = next((v["name"] for v in volumes if str(v.get("name")).startswith(_VOLUME)), None)
    if volume is None:
        volume = _VOLUME + "".join(secrets.choice(_LETTERS) for _ in range(5))
        spec["volumes"] = [*volumes, _volume(volume)]
    mount = {"name": volume, "readOnly": True, "mountPath": MOUNT_PATH}
    for container in without:
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), dict(mount)]


def _volume(name: str) -> Json:
    own = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}},
                {
                    "configMap": {
                        "name": ROOT_CONFIG_MAP,
                        "items": [{"key": "ca.crt", "path": "ca.crt"}],
                    }
                },
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": own}]}},
            ],
        },
    }
