"""Programs that stand in for container images: Bookinfo and the tools of samples and tasks.

`run` is what the node's zygote calls in a forked process; `python -m` runs one by hand.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import cast

Main = Callable[[Sequence[str], Mapping[str, str]], int]
"""(arguments without the program's name, environment) to exit code."""

_NAMES = (
    "curl details echo fortio h2-echo helloworld http-echo httpbin nc nslookup productpage "
    "ratings reviews sleep tcp-echo traffic web wget"
)
NAMES = frozenset(_NAMES.split())


_LATE = frozenset({"h2-echo"})
"""Programs with libraries of their own, imported only where they run."""


def preload() -> None:
    """Import the programs, so that processes forked from this one share the memory."""
    for name in NAMES - _LATE:
        _main(name)


def load(name: str) -> None:
    """Import a program, while its files can still be seen."""
    _main(name)


def run(name: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program to its end; its exit code. `argv` comes without the program's name."""
    return _main(name)(argv, env)


def _main(name: str) -> Main:
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast(Main, module.main)
