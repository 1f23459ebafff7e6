"""Waits: for SIGTERM, or for the seconds it is given."""

import signal
from collections.abc import Mapping, Sequence


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    numbers = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        seconds = float(argv[0]) if argv else float("inf")
    except ValueError:
        seconds = float("inf")
    if seconds == float("inf"):
        signal.sigwait(numbers)
    else:
        signal.sigtimedwait(numbers, seconds)
    return 0
