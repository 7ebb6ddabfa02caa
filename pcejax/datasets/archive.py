"""The files of a folder or of a zip, read in place: nothing is extracted."""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from pcejax.errors import UserError

_DEPTH = 3  # parts of the longest name looked for, as in `land/train/119_sat.jpg`


@dataclasses.dataclass(frozen=True)
class Archive:
    """Files by their name relative to `path`, parts divided by "/"; safe to read from many threads."""

    path: Path
    sizes: dict[str, int]  # bytes, uncompressed
    _read: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
          UserError: it cannot be read, or is damaged in the zip.
        """
        try:
            return self._read(name)
        # By EOFError zipfile tells of a cut file, by RuntimeError of an encrypted one, by NotImplementedError of a
        # compression that it does not know.
        except (OSError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.where(name)}: cannot be read: {error}; get the archive or the file anew") from error

    def where(self, name: str) -> str:
        """The file's name for a message."""
        return f"{self.path}/{name}"


def open_archive(path: Path) -> Archive:
    """The folder, or the zip, at `path`.

    Raises:
      UserError: nothing is there, it is empty, or it is neither a folder nor a whole zip.
    """
    if path.is_dir():
        archive = Archive(path, _sizes(path), lambda name: (path / name).read_bytes())
    elif path.is_file():
        archive = _open_zip(path)
    else:
        raise UserError(f"{path}: no such file or folder; expected the archive's zip, or its extracted folder")
    if not archive.sizes:
        raise UserError(f"{path}: is empty; expected the archive's zip, or its extracted folder")
    return archive


def _sizes(root: Path) -> dict[str, int]:
    sizes = {}
    for folder, below, files in os.walk(root, followlinks=True):
        parts = Path(folder).relative_to(root).parts
        if len(parts) + 1 >= _DEPTH:
            below.clear()
        for file in files:
            path = Path(folder, file)
            if path.is_file():  # a dangling link is no file
                sizes["/".join((*parts, file))] = path.stat().st_size
    return sizes


def _open_zip(path: Path) -> Archive:
    try:
        file = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: {path.stat().st_size} bytes that are no whole zip ({error}); expected the archive's zip; "
            "was the download cut? get it anew"
        ) from error
    return Archive(path, {i.filename: i.file_size for i in file.infolist() if not i.is_dir()}, file.read)
