"""The audit log: one JSON line for each request that was answered, in `audit.log`.

Who did what to which object, and how it ended; never what was in it, so that neither tokens nor
secrets are written. The file is rotated once.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from meltemi.local.apiserver.operations import User
from meltemi.local.apiserver.rbac import Attributes

Json = dict[str, Any]
_LARGEST = 16 << 20


class AuditLog:
    """Appends to a file; keeps one older file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def _open(self) -> BinaryIO:
        file = self._path.open("ab", buffering=0)
        self._path.chmod(0o600)
        return file

    def close(self) -> None:
        self._file.close()

    def write(
        self,
        user: User,
        asked: Attributes,
        *,
        uri: str,
        agent: str,
        source: str,
        code: int,
        reason: str,
        received: str,
        impersonated: User | None,
        annotations: Mapping[str, str],
    ) -> None:
        """Note one request. A full disk loses the line, not the request."""
        entry: Json = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": str(uuid.uuid4()),
            "stage": "ResponseComplete",
            "requestURI": uri,
            "verb": asked.verb,
            "user": {"username": user.name, "groups": list(user.groups)},
            "sourceIPs": [source],
            "userAgent": agent,
            "responseStatus": {"code": code},
            "requestReceivedTimestamp": received,
            "annotations": {
                "authorization.k8s.io/decision": "forbid" if code == 403 else "allow",
                "authorization.k8s.io/reason": reason,
                **annotations,
            },
        }
        if impersonated is not None:
            entry["impersonatedUser"] = {
                "username": impersonated.name,
                "groups": list(impersonated.groups),
            }
        if asked.resource:
            entry["objectRef"] = {
                "resource": asked.resource,
                "subresource": asked.subresource,
                "namespace": asked.namespace,
                "name": asked.name,
                "apiGroup": asked.group,
            }
        try:
            self._file.write(orjson.dumps(entry) + b"\n")
            if self._file.tell() > _LARGEST:
                self._file.close()
                self._path.replace(self._path.with_suffix(".log.1"))
                self._file = self._open()
        except OSError:
            return
