"""Writes OCI image layouts for tests."""

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Entries = Sequence[tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]]


def file(name: str, content: bytes = b"", *, mode: int = 0o644, uid: int = 0) -> Any:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid = len(content), mode, uid
    return info, content


def link(name: str, target: str, *, hard: bool = False) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, target
    return info


def directory(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info


def layer(entries: Entries) -> bytes:
    """A plain tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for entry in entries:
            info, content = entry if isinstance(entry, tuple) else (entry, b"")
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def machine_tools(*names: str) -> list[Any]:
    """Programs of the machine and the libraries they need, as entries of a layer."""
    paths: set[str] = set()
    for name in names:
        program = shutil.which(name)
        assert program is not None
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        paths |= {program, *re.findall(r"(/\S+) \(0x", said)}
    return [file(path.lstrip("/"), Path(path).read_bytes(), mode=0o755) for path in paths]


class Layout:
    """A layout that is being written; `index` names the image at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.blobs / digest).write_bytes(data)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    def image(
        self, layers: Sequence[Entries], config: Mapping[str, Any], *, diff_ids: Sequence[str] = ()
    ) -> None:
        plain = [layer(entries) for entries in layers]
        found = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in plain]
        body = {
            "architecture": "any",
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids or found)},
        }
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(json.dumps(body).encode(), "config.v1+json"),
            "layers": [self.blob(gzip.compress(data), "layer.v1.tar+gzip") for data in plain],
        }
        described = self.blob(json.dumps(manifest).encode(), "manifest.v1+json")
        self.index([described])

    def index(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        body = {"schemaVersion": 2, "manifests": list(manifests)}
        (self.path / "index.json").write_text(json.dumps(body))

    def archive(self, target: Path) -> Path:
        with tarfile.open(target, "w") as tar:
            for path in sorted(self.path.rglob("*")):
                tar.add(path, str(path.relative_to(self.path)), recursive=False)
        return target
