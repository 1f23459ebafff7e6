"""How commands print: tables for people, JSON and YAML for programs, one-line errors."""

import enum
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_data(data: Any, form: Format) -> None:
    """Print builtin data as JSON or YAML."""
    if form is Format.JSON:
        json.dump(data, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        import yaml

        yaml.safe_dump(data, sys.stdout, sort_keys=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded as kubectl pads them: no frames, easy to cut and grep."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one sentence on stderr."""
    sys.stderr.write(f"meltemi: {message}\n")
    raise SystemExit(code)
