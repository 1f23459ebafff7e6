"""A visitor that never tires: asks for URL at RATE requests a second, within bounds."""

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping, Sequence

import aiohttp

_MOST = 100.0
_REPORT = 60.0


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    url = argv[0] if argv else env.get("URL", "http://istio-ingressgateway.istio-system/")
    rate = min(max(float(env.get("RATE", "4")), 0.1), _MOST)
    asyncio.run(_run(url, rate))
    return 0


async def _run(url: str, rate: float) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    counts: Counter[str] = Counter()
    limit = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        asyncio.TaskGroup() as group,
    ):
        begun, reported, count = loop.time(), loop.time(), 0
        print(f"asking for {url}, {rate:g} a second", flush=True)
        while not stopping.is_set():
            group.create_task(_ask(session, url, counts), name=f"request {count}")
            count += 1
            try:
                async with asyncio.timeout_at(begun + count / rate):
                    await stopping.wait()
            except TimeoutError:
                pass
            if loop.time() - reported > _REPORT:
                reported = loop.time()
                summary = ", ".join(f"{what}: {n}" for what, n in sorted(counts.items()))
                print(f"answers in the last minute: {summary}", flush=True)
                counts.clear()


async def _ask(session: aiohttp.ClientSession, url: str, counts: Counter[str]) -> None:
    try:
        async with session.get(url) as reply:
            await reply.read()
            counts[str(reply.status)] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        counts[type(error).__name__] += 1
