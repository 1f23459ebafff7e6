"""The image tables of a running node: given at its start, added since, built in."""

import asyncio
import logging
import shutil
from pathlib import Path

from meltemi.local.images.builtin import images
from meltemi.local.images.image import Image
from meltemi.local.images.table import BadTable, Table, table_of

log = logging.getLogger(__name__)


class ImageStore:
    """Looks images up; follows the table in the data directory as it changes."""

    def __init__(self, given: Table, path: Path) -> None:
        """`given`: the table of `--images`; `path`: that of `meltemi image add`."""
        self._given = given
        self._path = path
        self._added = Table()
        self._is_broken = False
        self._seen: tuple[int, int] | None = None
        self._built_in = Table(images())
        self.changed = asyncio.Event()
        """Replaced and set at each change; take it before looking, wait on it after."""
        self.reload()

    def sweep(self, rootfs: Path) -> None:
        """Remove unpacked images that no table names any more; no container may run."""
        used = {
            entry.root for table in (self._given, self._added) for entry in table.entries.values()
        }
        for place in rootfs.iterdir() if rootfs.is_dir() else ():
            if str(place.absolute()) not in used:
                shutil.rmtree(place, ignore_errors=True)

    def find(self, image: str) -> Image | None:
        """What stands in for an image; None when nothing does."""
        self.reload()
        for table in (self._given, self._added, self._built_in):
            found = table.find(image)
            if found is not None:
                return found
        return None

    def reload(self) -> None:
        """Take the file as it is now; one that cannot be used leaves what was."""
        try:
            state = self._path.stat()
            seen: tuple[int, int] | None = (state.st_mtime_ns, state.st_size)
        except FileNotFoundError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._added = table_of(self._path) if seen is not None else Table()
            self._is_broken = False
        except BadTable as error:
            self._is_broken = True
            log.error("%s; the images before it still hold", error)
            return
        done, self.changed = self.changed, asyncio.Event()
        done.set()
