"""A user's mistake is a value: a Problem with a code from the one table below."""

import enum
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

from meltemi.base.keys import ObjectKey

V = TypeVar("V")


class Severity(enum.Enum):
    """The gravest first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Code(enum.Enum):
    """Every problem Meltemi can report. A code is never reused; `analysis` widens the table."""

    UNKNOWN_FIELD = "MSH0101"
    WRONG_TYPE = "MSH0102"
    BAD_VALUE = "MSH0103"
    MISSING_FIELD = "MSH0104"
    UNKNOWN_HOST = "MSH0201"
    UNKNOWN_SUBSET = "MSH0202"
    UNKNOWN_GATEWAY = "MSH0203"
    UNKNOWN_PORT = "MSH0204"
    HOST_CONFLICT = "MSH0205"
    UNREACHABLE_ROUTE = "MSH0206"
    DUPLICATE_SUBSET = "MSH0207"
    PORT_CONFLICT = "MSH0208"
    NOT_SUPPORTED = "MSH0209"
    NO_WORKLOADS = "MSH0210"
    UNKNOWN_DELEGATE = "MSH0211"
    DELEGATE_CONFLICT = "MSH0212"
    UNKNOWN_SECRET = "MSH0213"
    REJECTED_BY_PROXY = "MSH0301"
    INTERNAL = "MSH0901"


class Problem(msgspec.Struct, frozen=True):
    """One mistake, on one field of one object, with the reason and the fix in `message`."""

    code: Code
    severity: Severity
    about: ObjectKey
    path: str
    """The field: `spec.http[2].route[0].destination.host`; empty for the object itself."""
    message: str

    def __str__(self) -> str:
        where = f" {self.path}" if self.path else ""
        return f"{self.code.value} {self.about}{where}: {self.message}"


def gravest_first(problems: Iterable[Problem]) -> list[Problem]:
    """Errors before warnings, then by object and field."""
    gravity = list(Severity)
    return sorted(problems, key=lambda p: (gravity.index(p.severity), p.about, p.path, p.message))


class Outcome(msgspec.Struct, Generic[V], frozen=True):
    """A value and the problems met on the way; no value means: keep the last good one."""

    value: V | None
    problems: tuple[Problem, ...] = ()
