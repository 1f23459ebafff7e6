"""One expression: compiled, checked for names nobody knows, evaluated."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meltemi.local.apiserver.cel.functions import FUNCTIONS, NAMESPACES

_LONGEST = 8192
Functions = Mapping[str, Callable[..., Any]]


class CelError(ValueError):
    """An expression that cannot be compiled, or that failed."""


class Expression:
    """One expression, compiled when it is made. Raises CelError.

    `known`: the variables it may use; None when that is not checked.
    """

    def __init__(
        self, text: str, known: Iterable[str] | None = None, functions: Iterable[str] = ()
    ) -> None:
        import cel

        if len(text) > _LONGEST:
            raise CelError(f"an expression may have {_LONGEST} characters at most")
        try:
            self._program = cel.compile(text)
        except (ValueError, RuntimeError) as error:
            raise CelError(" ".join(str(error).split("\n")[:1])) from error
        self.text = text
        used = set(self._program.functions())
        self.variables = frozenset(self._program.variables())
        unknown = used - _BUILT_IN - FUNCTIONS.keys() - set(functions)
        if known is not None:
            own = {*known, *_bound(text), *NAMESPACES, *_TYPES}
            unknown |= self.variables - own
        if unknown:
            raise CelError(f"undeclared reference to {', '.join(map(repr, sorted(unknown)))}")
        if {"cidr", "string"} <= used:
            raise CelError("string() is not offered beside cidr(): a CIDR has no text here")
        self._functions = [name for name in used if name in FUNCTIONS]
        self._spaces = [name for name in self.variables if name in NAMESPACES]

    def value(self, variables: Mapping[str, Any], functions: Functions | None = None) -> Any:
        """The expression's value. Raises CelError."""
        import cel

        context = cel.Context()
        for name in self._spaces:
            context.add_variable(name, {"$namespace": name})
        for name in self.variables:
            if name in variables:
                context.add_variable(name, variables[name])
        for name in self._functions:
            context.add_function(name, FUNCTIONS[name])
        for name, function in (functions or {}).items():
            context.add_function(name, function)
        try:
            return self._program.execute(context)
        except Exception as error:
            raise CelError(str(error).splitlines()[0] if str(error) else "failed") from error


def _bound(text: str) -> list[str]:
    """Names that `all`, `exists`, `map` and their like give to the items they go through."""
    return _MACRO.findall(text)


_MACRO = re.compile(r"\.(?:all|exists|exists_one|filter|map)\(\s*([A-Za-z_]\w{0,63})\s*,")
_TYPES = frozenset(
    ("bool", "bytes", "double", "duration", "dyn", "int", "list", "map", "null_type", "string",
     "timestamp", "type", "uint")
)  # fmt: skip
_WORDS = (
    "size has all exists exists_one map filter startsWith endsWith contains matches dyn type int "
    "uint double string bytes bool duration timestamp getFullYear getMonth getDayOfMonth getDate "
    "getDayOfWeek getDayOfYear getHours getMinutes getSeconds getMilliseconds hasValue value "
    "orValue _+_ _-_ _*_ _/_ _%_ _==_ _!=_ _<_ _<=_ _>_ _>=_ _&&_ _||_ !_ -_ _[_] _?_:_ @in "
    "@not_strictly_false"
)
_BUILT_IN = frozenset(_WORDS.split())
