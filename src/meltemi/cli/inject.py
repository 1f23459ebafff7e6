"""inject: adds the sidecar to manifests, as the webhook would."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from meltemi.cli.output import fail


def inject(
    filename: Annotated[str, typer.Option("-f", "--filename", help="A manifest; - for stdin.")],
) -> None:
    """Print a manifest with the sidecar added to every pod template in it.

    Example: meltemi inject -f deployment.yaml | kubectl apply -f -
    """
    from meltemi.inject.manifest import inject_yaml
    from meltemi.inject.patch import InjectConfig

    try:
        text = sys.stdin.read() if filename == "-" else Path(filename).read_text()
    except OSError as error:
        fail(f"{filename}: {error.strerror}")
    try:
        sys.stdout.write(inject_yaml(text, InjectConfig()))
    except ValueError as error:
        fail(f"{filename}: {error}")
