"""Failures as the API reports them: a Status object and an HTTP code.

StatusError
└── raised by every verb; `not_found`, `conflict`, `invalid`, ... make the usual ones
"""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]


class StatusError(Exception):
    """A request that failed, with the Status a client gets."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: Json | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details

    @property
    def status(self) -> Json:
        body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body


def resource_name(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> StatusError:
    return StatusError(
        404,
        "NotFound",
        f'{resource_name(plural, group)} "{name}" not found',
        details={"name": name, "group": group, "kind": plural},
    )


def already_exists(plural: str, group: str, name: str) -> StatusError:
    return StatusError(
        409,
        "AlreadyExists",
        f'{resource_name(plural, group)} "{name}" already exists',
        details={"name": name, "group": group, "kind": plural},
    )


def conflict(plural: str, group: str, name: str, why: str = "") -> StatusError:
    reason = why or (
        "the object has been modified; please apply your changes to the latest version and try "
        "again"
    )
    return StatusError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource_name(plural, group)} "{name}": {reason}',
        details={"name": name, "group": group, "kind": plural},
    )


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def invalid(kind: str, group: str, name: str, causes: Sequence[tuple[str, str]]) -> StatusError:
    """`causes`: (field, message) pairs."""
    kind_name = f"{kind}.{group}" if group else kind
    listed = [{"reason": "FieldValueInvalid", "field": f, "message": m} for f, m in causes]
    text = ", ".join(f"{field}: {message}" if field else message for field, message in causes)
    if len(causes) > 1:
        text = f"[{text}]"
    return StatusError(
        422,
        "Invalid",
        f'{kind_name} "{name}" is invalid: {text}',
        details={"name": name, "group": group, "kind": kind, "causes": listed},
    )


def gone(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def forbidden(message: str) -> StatusError:
    return StatusError(403, "Forbidden", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(what: str) -> StatusError:
    return StatusError(405, "MethodNotAllowed", what)


def internal(message: str) -> StatusError:
    return StatusError(500, "InternalError", message)
