"""Which program stands in for which image, and the table that users write."""

import asyncio
from pathlib import Path

import pytest

from meltemi.local.images.builtin import images
from meltemi.local.images.programs import NAMES
from meltemi.local.images.programs.fortio import _percentile
from meltemi.local.images.store import ImageStore
from meltemi.local.images.table import (
    BadTable,
    Entry,
    Table,
    read_entries,
    table_of,
    write_entries,
)
from meltemi.local.node.launch import _command
from meltemi.local.node.podspec import Container

TABLE = Table(images())


@pytest.mark.parametrize(
    ("image", "program"),
    [
        ("docker.io/istio/examples-bookinfo-reviews-v3:1.20.2", "reviews"),
        ("curlimages/curl", "curl"),
        ("docker.io/mccutchen/go-httpbin:v2.15.0", "httpbin"),
        ("kong/httpbin@sha256:abc", "httpbin"),
        ("registry.k8s.io/pause:3.9", "sleep"),
        ("localhost:5000/fortio/fortio:latest", "fortio"),
        ("docker.io/istio/tcp-echo-server:1.3", "tcp-echo"),
        ("hashicorp/http-echo", "http-echo"),
        ("docker.io/istio/examples-helloworld-v1", "helloworld"),
    ],
)
def test_images_are_known_as_users_write_them(image: str, program: str) -> None:
    found = TABLE.find(image)
    assert found is not None
    assert found.program == program


def run(image: str, *args: str, command: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]]:
    """(program, arguments) of a container that names this."""
    found = TABLE.find(image)
    assert found is not None
    return _command(Container("c", command=command, args=args), found, {})


def test_arguments_take_the_place_of_what_an_image_would_run() -> None:
    assert run("busybox") == ("", ("/bin/sh",))
    assert run("busybox", "echo", "hi") == ("", ("echo", "hi"))
    assert run("curlimages/curl", "-s", "web") == ("curl", ("-s", "web"))
    assert run("curlimages/curl", "sleep", "9") == ("", ("sleep", "9"))
    assert run("kong/httpbin") == ("httpbin", ("--port", "80"))
    assert run("kong/httpbin", command=("gunicorn",)) == ("", ("gunicorn",))
    assert run("fortio/fortio", "load", "x") == ("fortio", ("load", "x"))


@pytest.mark.parametrize("image", ["redis", "myorg/not-nginx", "example.com/echo2"])
def test_others_are_not_taken_for_them(image: str) -> None:
    assert TABLE.find(image) is None


def test_every_program_of_the_table_is_there() -> None:
    for image in images().values():
        assert {image.program, *image.tools.values()} - {""} <= NAMES


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = {
        "redis": Entry(command=("redis-server", "--port", "6379"), env={"A": 'quote " it'}),
        "my/*": Entry(program="echo", user=7),
    }
    path = tmp_path / "images.toml"
    write_entries(path, entries)
    assert read_entries(path) == entries
    found = table_of(path).find("docker.io/my/app:2")
    assert found is not None
    assert (found.program, found.user) == ("echo", 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x]\n", "give one of command"),
        ('[x]\nprogram = "nothing"\n', "is not one of"),
        ('[x]\ncommand = ["a"]\nimage = "y"\n', "image"),
        ('[x]\ncommand = ["a"]\ndirectory = "/no/such"\n', "does not exist"),
        ("[x\n", "images.toml"),
    ],
)
def test_a_bad_table_names_file_and_entry(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "images.toml"
    path.write_text(text)
    with pytest.raises(BadTable, match=said):
        read_entries(path)


async def test_a_running_node_follows_the_table(tmp_path: Path) -> None:
    path = tmp_path / "images.toml"
    store = ImageStore(Table(), path)
    assert store.find("redis") is None
    changed = store.changed
    write_entries(path, {"redis": Entry(program="sleep")})
    found = store.find("redis:7")
    assert found is not None
    await asyncio.wait_for(changed.wait(), 1)
    path.write_text("[broken\n")
    assert store.find("redis") is not None
    path.unlink()
    assert store.find("redis") is None


def test_percentiles_lie_between_what_was_measured() -> None:
    times = [float(n) for n in range(1, 101)]
    assert _percentile(times, 50) == pytest.approx(50.5)
    assert _percentile(times, 100) == 100.0
    assert _percentile([], 99) == 0.0
