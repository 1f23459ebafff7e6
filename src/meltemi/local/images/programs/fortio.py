"""A load generator with fortio's command line: `fortio load -c 4 -qps 20 -t 10s URL`, and more.

`fortio server` echoes on 8080; `fortio curl URL` asks once.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import aiohttp

from meltemi.local.images.programs.curl import main as curl
from meltemi.local.images.programs.echo import main as echo

_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_CALLS = 1_000_000
_MOST_CONNECTIONS = 1000
_PERCENTILES = "50,75,90,99,99.9"
_USAGE = "usage: fortio load|curl|server [options] URL"


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    command, rest = (argv[0] if argv else "server"), argv[1:]
    match command:
        case "load":
            return _load(rest)
        case "curl":
            return curl([word for word in rest if word != "-quiet"], env)
        case "server":
            print("fortio: echoing on 8080", flush=True)
            return echo(["--port", "8080", "--tcp-port", "8078"], env)
    print(f"fortio: {command}: no such command\n{_USAGE}", file=sys.stderr)
    return 1


def load_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fortio load")
    parser.add_argument("url")
    parser.add_argument("-c", type=int, default=4)
    parser.add_argument("-qps", type=float, default=8.0)
    parser.add_argument("-n", type=int, default=0)
    parser.add_argument("-t", default="5s")
    parser.add_argument("-p", default=_PERCENTILES)
    parser.add_argument("-timeout", default="3s")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-X", default="GET")
    parser.add_argument("-payload", default=None)
    parser.add_argument("-loglevel", default="info")
    for flag in ("-quiet", "-allow-initial-errors", "-k", "-keepalive", "-a"):
        parser.add_argument(flag, nargs="?", const="true", default="true")
    return parser


def _load(argv: Sequence[str]) -> int:
    try:
        options = load_options().parse_args(_joined(argv))
        load = Load(options)
    except ValueError as error:
        print(f"fortio: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        return 1
    asyncio.run(load.run())
    print(load.report(), end="", flush=True)
    return 0


def _joined(argv: Sequence[str]) -> Sequence[str]:
    """`--option` and `-option=value` are written as `-option value`."""
    found: list[str] = []
    for word in argv:
        if word.startswith("-") and "=" in word and "://" not in word.partition("=")[0]:
            name, _, value = word.partition("=")
            found += [f"-{name.lstrip('-')}", value]
        else:
            found.append(f"-{word.lstrip('-')}" if word.startswith("--") else word)
    return found


def _seconds(text: str) -> float:
    """A duration such as 10s or 500ms. Raises ValueError."""
    for suffix, factor in _DURATIONS.items():
        number = text.removesuffix(suffix)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    raise ValueError(f"{text}: a duration is expected, such as 10s or 500ms")


class Load:
    """Calls a URL over a number of connections, at a rate or as fast as it goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises ValueError."""
        self._url = options.url if "://" in options.url else f"http://{options.url}"
        self._connections = min(max(options.c, 1), _MOST_CONNECTIONS)
        self._rate = max(options.qps, 0.0)
        self._seconds = _seconds(options.t)
        self._count = options.n
        self._timeout = _seconds(options.timeout)
        self._method = options.X if options.payload is None else "POST"
        self._payload = options.payload
        pairs = (text.partition(":") for text in options.H)
        self._headers = {name.strip(): value.strip() for name, _, value in pairs}
        self._percentiles = [float(text) for text in options.p.split(",")]
        self._left = self._count or _MOST_CALLS
        self._begun = 0.0
        self._elapsed = 0.0
        self.times: list[float] = []
        self.codes: Counter[str] = Counter()

    async def run(self) -> None:
        limits = aiohttp.ClientTimeout(total=self._timeout)
        connector = aiohttp.TCPConnector(limit=self._connections)
        self._begun = time.monotonic()
        async with (
            aiohttp.ClientSession(timeout=limits, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for number in range(self._connections):
                group.create_task(self._connection(session), name=f"connection {number}")
        self._elapsed = time.monotonic() - self._begun

    async def _connection(self, session: aiohttp.ClientSession) -> None:
        pause = self._connections / self._rate if self._rate else 0.0
        due = time.monotonic()
        while self._left > 0:
            if not self._count and due - self._begun >= self._seconds:
                return
            self._left -= 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._call(session)
            due = due + pause if pause else time.monotonic()

    async def _call(self, session: aiohttp.ClientSession) -> None:
        begun = time.monotonic()
        try:
            async with session.request(
                self._method, self._url, headers=self._headers, data=self._payload,
                allow_redirects=False,
            ) as reply:  # fmt: skip
                await reply.read()
                code = str(reply.status)
        except (aiohttp.ClientError, TimeoutError):
            code = "-1"
        self.times.append(time.monotonic() - begun)
        self.codes[code] += 1

    def report(self) -> str:
        """What fortio's users look for: percentiles, codes and the rate that came about."""
        times = sorted(self.times)
        total = len(times)
        mean = sum(times) / total if total else 0.0
        lines = [f"# target {p:g}% {_percentile(times, p):.6f}" for p in self._percentiles]
        for code, count in sorted(self.codes.items()):
            lines.append(f"Code {code:>3} : {count} ({100 * count / total:.1f} %)")
        rate = total / self._elapsed if self._elapsed else 0.0
        lines.append(
            f"All done {total} calls (plus 0 warmup) {1000 * mean:.3f} ms avg, {rate:.1f} qps"
        )
        return "\n".join(lines) + "\n"


def _percentile(times: Sequence[float], percent: float) -> float:
    """The time within which that part of the calls was over."""
    if not times:
        return 0.0
    place = percent / 100 * (len(times) - 1)
    low = int(place)
    high = min(low + 1, len(times) - 1)
    return times[low] + (times[high] - times[low]) * (place - low)
