"""python -m bench [NAME...]: run the benchmarks, all without a name, and print their figures."""

import argparse
import asyncio
import datetime
import importlib
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.figures import Figure, line, machine, row

BENCHES = {
    "api": "The embedded Kubernetes API, over HTTP",
    "durability": "The embedded Kubernetes API, killed a thousand times",
    "control": "1,000 services and 500 proxies: changes timed to the last ACK",
    "mesh": "A real mesh: start, memory, and what it costs a request",
    "sidecar": "One sidecar in a mesh of 1,000 services: whole, scoped, on demand",
    "rules": "Compiling 1,000 services with 200 VirtualServices and DestinationRules",
    "differential": "The simulator against real Envoys on random rules and requests (root)",
}
"""Module of this package, and what it measures."""


def main() -> None:
    """Run each benchmark in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--markdown", type=Path, help="also write the figures to this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHES]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHES)}")
    if options.child:
        asyncio.run(_measure(options.names[0]))
        return
    where = machine()
    print(where)
    found = {name: _in_child(name) for name in options.names or BENCHES}
    if options.markdown:
        options.markdown.write_text(_document(where, found))
    if not all(found.values()):
        raise SystemExit(1)


async def _measure(name: str) -> None:
    """In the child: one JSON line a figure."""
    async for figure in importlib.import_module(f"bench.{name}").run():
        print(msgspec.json.encode(figure).decode(), flush=True)


def _in_child(name: str) -> list[Figure]:
    """Run one benchmark and print its figures as they come; empty when it failed."""
    print(f"\n{name}: {BENCHES[name]}", flush=True)
    figures: list[Figure] = []
    command = [sys.executable, "-m", "bench", "--child", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for text in process.stdout:
            figure = msgspec.json.decode(text, type=Figure)
            figures.append(figure)
            print(line(figure), flush=True)
    if process.returncode:
        print(f"  failed with code {process.returncode}", flush=True)
        return []
    return figures


def _document(where: str, found: dict[str, list[Figure]]) -> str:
    """The figures as docs/benchmarks.md holds them."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = [
        "# Benchmarks\n",
        f"`make bench` on {today}: {where}, Python {sys.version.split()[0]}.",
        "`share` is the part of the aim that was used: below 1 is good.\n",
    ]
    for name, figures in found.items():
        parts += [f"## {name}: {BENCHES[name]}\n", "| what | figure | aim | share |"]
        parts += ["| --- | --- | --- | --- |", *map(row, figures), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
