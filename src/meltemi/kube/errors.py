"""How the Kubernetes API can fail us.

KubeError
├── BadKubeconfig          the file or the pod's environment cannot be used
├── Unavailable            no answer, or "later": refused, reset, timed out, 429, 502, 503, 504
└── ApiError               an answer that says no; carries the Status
    ├── BadRequest         400
    ├── Unauthorized       401
    ├── Forbidden          403
    ├── NotFound           404
    ├── Conflict           409, another write came first
    │   └── AlreadyExists  409, the name is taken
    ├── Gone               410, the resource version is too old: list again
    ├── Invalid            422, with the fields that are wrong
    └── ServerError        any other code
"""

import msgspec


class KubeError(Exception):
    """Base of everything this package raises."""


class BadKubeconfig(KubeError):
    """The kubeconfig names something that is missing, or asks for what we refuse to do."""


class Unavailable(KubeError):
    """The API did not answer, or asked us to come back; the same call may work later."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds the server asked us to wait, when it said."""


class Cause(msgspec.Struct, frozen=True):
    """One wrong field of a refused object."""

    field: str = ""
    message: str = ""
    reason: str = ""


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    causes: tuple[Cause, ...] | None = None
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct, frozen=True):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


class ApiError(KubeError):
    """The API answered no. `code` and `reason` are those of its Status."""

    def __init__(
        self, code: int, reason: str, message: str, causes: tuple[Cause, ...] = ()
    ) -> None:
        super().__init__(message or f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.causes = causes


class BadRequest(ApiError):
    pass


class Unauthorized(ApiError):
    pass


class Forbidden(ApiError):
    pass


class NotFound(ApiError):
    pass


class Conflict(ApiError):
    pass


class AlreadyExists(Conflict):
    pass


class Gone(ApiError):
    pass


class Invalid(ApiError):
    pass


class ServerError(ApiError):
    pass


_BY_CODE: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
}
_LATER = frozenset({429, 502, 503, 504})


def error_from_response(code: int, body: bytes, retry_after: str = "") -> KubeError:
    """The exception for an answer of 400 or more; `body` is a Status, or any text."""
    status = _status(body)
    code = status.code or code
    details = status.details or _Details()
    if code in _LATER:
        wait = float(retry_after) if retry_after.isdecimal() else details.retry_after_seconds
        return Unavailable(status.message or f"the Kubernetes API answered {code}", wait)
    kind = _BY_CODE.get(code, ServerError)
    if kind is Conflict and status.reason == "AlreadyExists":
        kind = AlreadyExists
    return kind(code, status.reason, status.message, details.causes or ())


def _status(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except msgspec.MsgspecError:
        return _Status(message=body[:500].decode(errors="replace").strip())
