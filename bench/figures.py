"""A measured figure, its aim, and how both are printed."""

import os
import resource
from pathlib import Path

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One line of a benchmark's output."""

    what: str
    value: float
    unit: str
    aim: float | None = None
    """None: nothing is promised, the figure is for comparison."""
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How much of the aim was used; below 1 is better than the aim."""
        if self.aim is None or not self.value:
            return None
        return self.aim / self.value if self.more_is_better else self.value / self.aim


def line(figure: Figure) -> str:
    """A figure in fixed columns: what, value, aim, share of the aim."""
    text = f"  {figure.what:<58} {_number(figure.value):>9} {figure.unit:<5}"
    if figure.aim is None:
        return text.rstrip()
    ratio = figure.ratio or 0.0
    sign = ">" if figure.more_is_better else "<"
    verdict = "" if ratio <= 1 else "  over"
    return f"{text} aim {sign} {_number(figure.aim):<7} {ratio:5.2f}{verdict}"


def row(figure: Figure) -> str:
    """A figure as a row of a Markdown table."""
    aim, share = "", ""
    if figure.aim is not None:
        aim = f"{'>' if figure.more_is_better else '<'} {_number(figure.aim)} {figure.unit}"
        share = f"{figure.ratio or 0.0:.2f}"
    return f"| {figure.what} | {_number(figure.value)} {figure.unit} | {aim} | {share} |"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine() -> str:
    """The machine, and how busy others keep it, in one line."""
    model = "unknown processor"
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            model = text.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    busy = f"load average {os.getloadavg()[1]:.1f} before it began"
    return f"{cores} cores of {model}, Linux {os.uname().release}, {busy}"


def resident_mib() -> float:
    """This process's resident memory now."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
