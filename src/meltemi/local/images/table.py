"""Which program stands in for a container image.

Built-in images run a program of ours in a forked process; a user's own table (`--images FILE`)
maps patterns to commands of the machine. The registry and the tag of an image do not matter unless
a pattern names them.
"""

import fnmatch
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


class BadTable(ValueError):
    """The user's table cannot be used; the text names the file, the entry and the fix."""


class Image(msgspec.Struct, frozen=True):
    """What a container of an image runs when the pod does not say otherwise."""

    command: tuple[str, ...] = ()
    """A command of the machine, first its entry point."""
    program: str = ""
    """Or a built-in program."""
    is_proxy: bool = False
    """The proxy's image: Envoy, or the capture rules of `istio-init`."""
    env: Mapping[str, str] = {}
    directory: str = ""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    command: tuple[str, ...] | str = ()
    env: dict[str, str] = {}
    directory: str = ""


_BUILT_IN: Mapping[str, Image] = {
    "*proxyv2": Image(is_proxy=True),
    "*examples-bookinfo-productpage-v1": Image(program="productpage"),
    "*examples-bookinfo-details-v1": Image(program="details"),
    "*examples-bookinfo-details-v2": Image(program="details"),
    "*examples-bookinfo-ratings-v1": Image(program="ratings"),
    "*examples-bookinfo-reviews-v1": Image(
        program="reviews", env={"SERVICE_VERSION": "v1", "ENABLE_RATINGS": "false"}
    ),
    "*examples-bookinfo-reviews-v2": Image(
        program="reviews",
        env={"SERVICE_VERSION": "v2", "ENABLE_RATINGS": "true", "STAR_COLOR": "black"},
    ),
    "*examples-bookinfo-reviews-v3": Image(
        program="reviews",
        env={"SERVICE_VERSION": "v3", "ENABLE_RATINGS": "true", "STAR_COLOR": "red"},
    ),
    "*meltemi/traffic": Image(program="traffic"),
    "*meltemi/echo": Image(program="echo"),
    "*curlimages/curl": Image(program="curl"),
    "*pstauffer/curl": Image(program="curl"),
    "curl": Image(program="curl"),
    "*sleep": Image(program="sleep"),
    "*pause": Image(program="sleep"),
    "*echo": Image(program="echo"),
    "*echoserver": Image(program="echo"),
    "*http-echo": Image(program="echo"),
    "*busybox": Image(command=("/bin/sh",)),
    "*alpine": Image(command=("/bin/sh",)),
    "*debian": Image(command=("/bin/sh",)),
    "*ubuntu": Image(command=("/bin/sh",)),
}


class Table:
    """Looks images up: the user's entries first, in their order, then the built-in ones."""

    def __init__(self, entries: Mapping[str, Image] | None = None) -> None:
        self._entries = {**(entries or {})}

    def find(self, image: str) -> Image | None:
        for pattern, found in self._entries.items():
            if _matches(pattern, image):
                return found
        for pattern, found in _BUILT_IN.items():
            if _matches(pattern, image):
                return found
        return None

    @classmethod
    def from_file(cls, path: Path) -> "Table":
        """Read `["pattern"] command = [...], env = {...}, directory = "..."`. Raises BadTable."""
        try:
            raw = tomllib.loads(path.read_text())
        except OSError as error:
            raise BadTable(f"{path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise BadTable(f"{path}: {error}") from error
        entries = {}
        for pattern, value in raw.items():
            try:
                entry = msgspec.convert(value, _Entry)
            except msgspec.ValidationError as error:
                raise BadTable(f'{path}: image "{pattern}": {error}') from error
            entries[pattern] = _image(path, pattern, entry)
        return cls(entries)


def _image(path: Path, pattern: str, entry: _Entry) -> Image:
    command = ("/bin/sh", "-c", entry.command) if isinstance(entry.command, str) else entry.command
    if not command or not command[-1]:
        raise BadTable(f'{path}: image "{pattern}": command is missing; give a list or a string')
    directory = os.path.join(path.parent.absolute(), entry.directory)
    if not os.path.isdir(directory):
        raise BadTable(f'{path}: image "{pattern}": directory {directory} does not exist')
    return Image(command=command, env=entry.env, directory=directory)


def _matches(pattern: str, image: str) -> bool:
    """Match the whole reference, or what is left of it without registry, tag and digest."""
    return any(fnmatch.fnmatchcase(form, pattern) for form in _forms(image))


def _forms(image: str) -> Sequence[str]:
    untagged = image.partition("@")[0]
    head, slash, tail = untagged.rpartition("/")
    bare = head + slash + tail.partition(":")[0]
    first, _, rest = bare.partition("/")
    without_registry = rest if rest and ("." in first or ":" in first) else bare
    return (image, bare, without_registry)
