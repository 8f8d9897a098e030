"""The files that somebody named, and those below the folders that they named."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from xray_batch.intake import is_ignored

#: Names of one folder held and put in order at a time: a folder may have more files than memory should hold.
_NAMES: Final = 1024


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the named files, and those below the named folders, while the folders are being read.

    Of a folder, the files come before those of its subfolders, both in order of name; of a folder of more than
    :data:`_NAMES` this is so for as many at a time, as the file system lists them.  Hidden and temporary files are
    passed over, as in the inbox; links to folders are not followed.  What does not exist, and a folder that cannot
    be read, is yielded too: it must be accounted for.
    """
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for what cannot be reached
            yield from _files_below(path)
        else:
            yield path


def read_list(lines: Iterable[bytes]) -> Iterator[Path]:
    """Yield the paths of a list that has one per line, as they are read; empty lines are passed over."""
    for line in lines:
        if name := line.rstrip(b"\r\n"):
            yield Path(os.fsdecode(name))


def _files_below(folder: Path) -> Iterator[Path]:
    levels = [_look_into(folder)]  # no recursion, whatever the depth
    while levels:
        for path, is_folder in levels[-1]:
            if is_folder:
                levels.append(_look_into(path))
                break
            yield path
        else:
            levels.pop()


def _look_into(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield what is in a folder, and whether that is a folder to look into; one that cannot be read as a file."""
    try:
        with os.scandir(folder) as entries:
            found = (entry for entry in entries if not is_ignored(entry.name))
            while names := sorted(islice(found, _NAMES), key=lambda entry: entry.name):
                yield from ((Path(entry.path), False) for entry in names if not _is_folder(entry))
                yield from ((Path(entry.path), True) for entry in names if _is_folder(entry) and not entry.is_symlink())
    except OSError:
        yield folder, False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere sensible; to open it will say so
        return False
