"""Programs that stand in for container images: Bookinfo and the tools of its tasks.

`run` is what the node's zygote calls in a forked process; `python -m` runs one by hand.
"""

from collections.abc import Callable, Mapping, Sequence

from meltemi.local.images.programs import (
    curl,
    details,
    echo,
    productpage,
    ratings,
    reviews,
    sleep,
    traffic,
)

_MAIN: Mapping[str, Callable[[Sequence[str], Mapping[str, str]], int]] = {
    "curl": curl.main,
    "details": details.main,
    "echo": echo.main,
    "productpage": productpage.main,
    "ratings": ratings.main,
    "reviews": reviews.main,
    "sleep": sleep.main,
    "traffic": traffic.main,
}

NAMES = frozenset(_MAIN)


def run(name: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a program to its end; its exit code. `argv` comes without the program's name."""
    return _MAIN[name](argv, env)
