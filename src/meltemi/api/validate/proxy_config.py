"""What a ProxyConfig may say (mesh-semantics 1.7)."""

import re
from collections.abc import Iterator

from meltemi.api.proxy_config import ProxyConfigSpec
from meltemi.api.validate import words
from meltemi.api.validate.words import Finding

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[a-z0-9]+")
_MOST = 256


def proxy_config(spec: ProxyConfigSpec) -> Iterator[Finding]:
    if spec.concurrency is not None and not 0 <= spec.concurrency <= _MOST:
        yield "spec.concurrency", f"must be from 0 (one for each core) to {_MOST}"
    for name in spec.environment_variables:
        if not _VARIABLE.fullmatch(name):
            path = "spec.environmentVariables"
            yield path, f"{name[:80]!r} is not the name of an environment variable"
    if spec.image is not None and not _IMAGE.fullmatch(spec.image.image_type or "default"):
        yield "spec.image.imageType", f"{spec.image.image_type[:80]!r} is not the type of an image"
    if spec.selector is not None:
        yield from words.labels(spec.selector.match_labels, "spec.selector.matchLabels")
