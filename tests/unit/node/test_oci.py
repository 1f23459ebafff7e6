"""Unpacking OCI images: what their layers say, checked by digest, and nothing outside the root."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.oci_layout import Entries, Layout, directory, file, link

from meltemi.local.images.oci import Contents, add
from meltemi.local.images.table import Entry, image_of
from meltemi.local.images.unpack import BadImage
from meltemi.local.node.rootfs import _real

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes its root")

PASSWD = file("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1234:55::/:/bin/sh\n")
GROUP = file("etc/group", b"root:x:0:\nstaff:x:77:\n")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def unpacked(layout: Layout, layers: Sequence[Entries], **config: Any) -> Contents:
    layout.image(layers, config)
    return add(layout.path, layout.path.parent / "store")


def test_an_image_says_what_it_runs_and_as_whom(layout: Layout) -> None:
    layers = [[PASSWD, GROUP, file("bin/tool", b"#!", mode=0o755), file("own", b"x", uid=1234)]]
    found = unpacked(
        layout,
        layers,
        Entrypoint=["/bin/tool"],
        Cmd=["--help"],
        Env=["COLOUR=blue", "PATH=/bin"],
        WorkingDir="/srv",
        User="app:staff",
    )
    assert (found.entrypoint, found.command) == (("/bin/tool",), ("--help",))
    assert (found.env, found.directory) == ({"COLOUR": "blue", "PATH": "/bin"}, "/srv")
    assert (found.uid, found.gid) == (1234, 77)
    assert os.stat(found.root / "bin/tool").st_mode & 0o777 == 0o755
    assert (found.root / "own").stat().st_uid == 1234
    archive = layout.archive(layout.path.parent / "image.tar")
    assert add(archive, layout.path.parent / "other").uid == 1234
    entry = Entry(root="store/" + found.root.name, entrypoint=("/bin/tool",), uid=7)
    image = image_of(layout.path.parent / "images.toml", "x", entry)
    assert (image.root, image.command, image.uid) == (str(found.root), ("/bin/tool",), 7)


def test_later_layers_take_away_what_earlier_ones_brought(layout: Layout) -> None:
    first = [file("a/one"), file("a/two"), file("b/old"), link("c", "a"), file("d")]
    second = [
        file("a/.wh.one"),
        file("b/new", b"!"),
        file("b/.wh..wh..opq"),
        directory("c"),
        file("c/three"),
        link("e", "d", hard=True),
    ]
    root = unpacked(layout, [first, second]).root
    assert sorted(os.listdir(root / "a")) == ["two"]
    assert sorted(os.listdir(root / "b")) == ["new"]
    assert not (root / "c").is_symlink()
    assert sorted(os.listdir(root / "c")) == ["three"]
    assert (root / "e").stat().st_ino == (root / "d").stat().st_ino


def test_links_lead_nowhere_but_within_the_image(layout: Layout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    up = "../" * 20 + str(outside).lstrip("/")
    layers = [
        [directory(str(outside).lstrip("/")), link("up", up), link("absolute", str(outside))],
        [file("up/one", b"1"), file("absolute/two", b"2"), file("absolute/.wh.nothing")],
    ]
    root = unpacked(layout, layers).root
    assert list(outside.iterdir()) == []
    within = root / str(outside).lstrip("/")
    assert sorted(p.name for p in within.iterdir()) == ["one", "two"]
    assert _real("/up/one", str(root)) == f"{outside}/one"
    assert _real("/absolute/../x", str(root)) == f"{outside.parent}/x"


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([[file("../evil", b"!")]], "leads out of the image"),
        ([[file("a/.wh...")]], "leads out of the image"),
        ([[link("stolen", "/etc/passwd", hard=True)]], "No such file"),
        ([[link("etc", "/run")]], "/etc is a link"),
        ([[link("gone", "/nowhere")], [file("gone/x")]], "File exists"),
    ],
)
def test_what_would_lead_out_is_refused(
    layout: Layout, layers: Sequence[Entries], said: str
) -> None:
    with pytest.raises(BadImage, match=said):
        unpacked(layout, layers)
    assert list((layout.path.parent / "store").iterdir()) == []


def test_a_damaged_image_is_refused(layout: Layout) -> None:
    layout.image([[file("a", b"1")]], {})
    for blob in sorted(layout.blobs.iterdir()):
        data = blob.read_bytes()
        for changed in (data[:-1] + bytes([data[-1] ^ 1]), data + b" "):
            blob.write_bytes(changed)
            with pytest.raises(BadImage, match="damaged, or somebody changed it"):
                add(layout.path, layout.path.parent / "store")
        blob.write_bytes(data)
    add(layout.path, layout.path.parent / "store")
    layout.image([[file("a", b"1")]], {}, diff_ids=["sha256:" + "0" * 64])
    with pytest.raises(BadImage, match="does not hold what the image's config says"):
        add(layout.path, layout.path.parent / "store")


def test_what_cannot_be_chosen_or_read_is_named(layout: Layout) -> None:
    layout.image([[file("a")]], {"User": "nobody-knows"})
    with pytest.raises(BadImage, match="user nobody-knows is not in the image's /etc/passwd"):
        add(layout.path, layout.path.parent / "store")
    described = json.loads((layout.path / "index.json").read_text())["manifests"][0]
    layout.index([{**described, "platform": {"os": "linux", "architecture": "s390x"}}])
    with pytest.raises(BadImage, match="s390x"):
        add(layout.path, layout.path.parent / "store")
    layout.index([{**described, "digest": "sha256:../../etc/passwd"}])
    with pytest.raises(BadImage, match="is no sha256"):
        add(layout.path, layout.path.parent / "store")
    with pytest.raises(BadImage, match="oci-layout is missing"):
        add(layout.path.parent / "nothing", layout.path.parent / "store")
