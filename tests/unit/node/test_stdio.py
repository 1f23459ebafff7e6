"""A container's streams: apart for those who attach, line by line in its log."""

import os
from pathlib import Path

import pytest
from tests.real.load import until

from meltemi.base.clock import SystemClock
from meltemi.local.node.podspec import Container
from meltemi.local.node.stdio import ERR, OUT, Stdio
from meltemi.local.node.streams import Wishes


async def test_output_and_errors_stay_apart_and_their_lines_whole(tmp_path: Path) -> None:
    stdio = Stdio(Container(name="main"), tmp_path / "0.log", SystemClock())
    heard: list[tuple[int, bytes]] = []

    def take(stream: int, data: bytes) -> None:
        heard.append((stream, data))

    stdio.attach(take)
    _, out, err = stdio.given
    for fd, text in ((out, b"one "), (err, b"two "), (out, b"line\n"), (err, b"words\n")):
        seen = len(heard)
        os.write(fd, text)
        await until(lambda seen=seen: len(heard) > seen)  # type: ignore[misc]
    stdio.release()
    stdio.abandon()
    assert heard == [(OUT, b"one "), (ERR, b"two "), (OUT, b"line\n"), (ERR, b"words\n")]
    lines = stdio.log.path.read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["one line", "two words"]


async def test_a_slow_client_that_leaves_holds_nobody_up(tmp_path: Path) -> None:
    stdio = Stdio(Container(name="main"), tmp_path / "0.log", SystemClock())
    stdio.attach(print)
    stdio.pause()
    os.write(stdio.given[1], b"waits\n")
    stdio.detach(print)
    await until(lambda: stdio.log.path.read_text().endswith("waits\n"))
    stdio.release()
    stdio.abandon()


@pytest.mark.parametrize(
    ("query", "outputs"),
    [({}, {1, 2}), ({"stdout": "true", "stderr": "false"}, {1}), ({"stdout": "0"}, {2})],
)
def test_a_client_gets_the_streams_it_asks_for(query: dict[str, str], outputs: set[int]) -> None:
    assert Wishes(query).outputs == outputs
