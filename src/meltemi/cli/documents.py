"""YAML files as objects that know where each of their fields stands."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from meltemi.base.keys import ObjectKey


class BadFile(ValueError):
    """A file cannot be read as objects; the text names it and the line."""


class Document(NamedTuple):
    data: dict[str, Any]
    file: str
    lines: Mapping[str, int]
    """Field to line, counted from 1; the object itself is the empty field."""


def read(paths: Iterable[Path]) -> list[Document]:
    """The objects of files, and of all YAML files of directories; items of Lists one by one."""
    return [found for path in paths for file in _files(path) for found in _documents(file)]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json"))
    else:
        yield path


def _documents(path: Path) -> Iterator[Document]:
    try:
        loader = yaml.CSafeLoader(path.read_text())
        while loader.check_node():
            node = loader.get_node()
            data = loader.construct_document(node) if node is not None else None
            if node is not None and data is not None:
                yield from _objects(path, node, data)
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise BadFile(f"{path}:{line}: {error.problem}") from error


def _objects(path: Path, node: yaml.Node, data: object) -> Iterator[Document]:
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        line = node.start_mark.line + 1
        raise BadFile(f"{path}:{line}: not an object: it needs a kind and metadata.name")
    if data["kind"].endswith("List") and isinstance(data.get("items"), list):
        items = next(v for k, v in node.value if k.value == "items")
        for item, inner in zip(items.value, data["items"], strict=True):
            yield from _objects(path, item, inner)
        return
    if not isinstance(data.get("metadata"), dict) or not data["metadata"].get("name"):
        line = node.start_mark.line + 1
        raise BadFile(f"{path}:{line}: {data['kind']} without metadata.name")
    yield Document(data, str(path), dict(_lines(node, "")))


def _lines(node: yaml.Node, path: str) -> Iterator[tuple[str, int]]:
    """Each field with the line of its key, or of its item."""
    if not path:
        yield "", node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = f"{path}.{_camel(key.value)}".lstrip(".")
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            inner = f"{path}[{i}]"
            yield inner, item.start_mark.line + 1
            yield from _lines(item, inner)


def _camel(name: str) -> str:
    """Fields may be written in snake case; reasons name them in camel case."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


class Positions:
    """Where objects of files stand."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._places: dict[ObjectKey, Document] = {}
        for document in documents:
            meta = document.data["metadata"]
            key = ObjectKey(document.data["kind"], meta.get("namespace", "default"), meta["name"])
            self._places[key] = document

    def of(self, key: ObjectKey, path: str) -> tuple[str, int] | None:
        """File and line of a field, or of the nearest one around it that is written."""
        document = self._places.get(key)
        if document is None:
            return None
        while path not in document.lines:
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return document.file, document.lines[path]

    def annotated(self, value: Any) -> Any:
        """Builtin data with file and line filled in wherever an object and field are named."""
        if isinstance(value, list | tuple):
            return [self.annotated(item) for item in value]
        if not isinstance(value, dict):
            return value
        filled = {name: self.annotated(item) for name, item in value.items()}
        if {"kind", "namespace", "name", "path"} <= filled.keys():
            key = ObjectKey(filled["kind"], filled["namespace"], filled["name"])
            found = self.of(key, filled["path"])
            if found is not None:
                filled["file"], filled["line"] = found
        return filled
