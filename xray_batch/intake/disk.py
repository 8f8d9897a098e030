"""The few things intake does to a disk; every change of a file or folder goes through here.

Where a function returns, its change has been asked to survive a power cut too (folders are synced).
"""

import ctypes
import errno
import functools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xray_batch.intake.folders import FILE_MODE, FOLDER_MODE

#: Never follow a link, never wait for the other end of a FIFO, never leak into a decode worker.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

#: What opening or renaming says when the name is gone, or is no longer what the scan saw.
GONE_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


@contextmanager
def open_folder(root: Path, *names: str) -> Iterator[int]:
    """Give a descriptor of the folder `names` below `root`; no link is followed below `root`.

    A sender can put a link in place of a subfolder at any moment, and a path would lead through it.
    """
    descriptor = os.open(root, _FOLDER_FLAGS)
    try:
        for name in names:
            below = os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_file(root: Path, *names: str) -> Iterator[int]:
    """Give a descriptor for reading of the file `names` below `root`; no link is followed below `root`."""
    with open_folder(root, *names[:-1]) as folder:
        descriptor = os.open(names[-1], READ_FLAGS, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_single_file(status: os.stat_result) -> bool:
    """Tell whether this is a regular file with one name.

    A second name may lie outside our folders: its owner could change the bytes at any time, and we
    could be made to read, or to hand on, a file that the sender may not read himself.
    """
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def make_folders(folder: Path, root: Path) -> None:
    """Make `folder` and what is missing between it and the existing `root`.

    Raises
    ------
    NotADirectoryError
        If something else has one of the names.
    """
    below = folder.relative_to(root).parts
    for depth in range(1, len(below) + 1):
        level = root.joinpath(*below[:depth])
        try:
            level.mkdir(FOLDER_MODE)
        except FileExistsError:
            if not stat.S_ISDIR(level.lstat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(level)) from None
        else:
            sync_folder(level.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    with open_folder(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def synced(descriptor: int) -> Iterator[None]:
    """Have the bytes of a file written out while the caller does something else; on leaving they are on the disk.

    Raises
    ------
    OSError
        On leaving, if they could not be written; on entering, if the system has no thread to spare.
    """
    failed: list[OSError] = []

    def sync() -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            failed.append(error)

    syncing = threading.Thread(target=sync, name="sync", daemon=True)  # one that hangs cannot be joined
    try:
        syncing.start()
    except RuntimeError as error:  # no more threads now
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    try:
        yield
    finally:
        syncing.join()
    if failed:
        raise failed[0]


def move(source: Path, target: Path) -> None:
    """Rename a file within the file system, never replacing anything.

    Raises
    ------
    FileExistsError
        If `target` exists; nothing has changed.
    """
    rename_no_replace(source, os.fspath(target))
    sync_folder(target.parent)
    sync_folder(source.parent)


def rename_no_replace(source: Path, name: str, folder: int = _AT_FDCWD) -> None:
    """Rename `source` to `name` in the folder with that descriptor, never replacing anything.

    ``renameat2`` does it in one step, so that the file has exactly one name at every moment.  ``link`` and
    ``unlink`` would do it in two, and where the kernel protects hard links (``fs.protected_hardlinks``, on by
    default in most distributions) ``link`` is refused for a file of another user: that is every file that a
    sender dropped.  They are the fallback for file systems without the flag, NFS for one.

    Raises
    ------
    FileExistsError
        If the name is taken; nothing has changed.
    """
    try:
        _renameat2(source, name, folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        os.link(source, name, dst_dir_fd=folder if folder != _AT_FDCWD else None, follow_symlinks=False)
        # Both names are there if the process dies here: `file_away` removes the first.
        source.unlink()


def _renameat2(source: Path, name: str, folder: int) -> None:
    """Call renameat2(2) with RENAME_NOREPLACE; Python has no name for it."""
    if _libc_renameat2()(_AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(source), None, name)


def refuses_to_replace(source: Path, target: Path) -> bool:
    """Tell whether renameat2 can be used here, and does not replace `target`, which exists."""
    try:
        _renameat2(source, os.fspath(target), _AT_FDCWD)
    except OSError as error:
        return error.errno == errno.EEXIST
    return False


@functools.cache
def _libc_renameat2() -> Callable[[int, bytes, int, bytes, int], int]:
    """Find renameat2 in the C library (glibc 2.28); without it every call says ENOSYS."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return _not_implemented
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def _not_implemented(*_arguments: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


def write_new_file(target: Path, content: bytes, scratch: Path) -> None:
    """Write a file that appears complete or not at all, never replacing anything.

    Parameters
    ----------
    scratch
        Name on the same file system under which the bytes are collected first.  Always the same for the
        same `target`, so that a crash leaves at most one behind, which the next attempt replaces.

    Raises
    ------
    FileExistsError
        If `target` exists.
    """
    _write(scratch, content)
    try:
        rename_no_replace(scratch, os.fspath(target))
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replace_file(target: Path, content: bytes, scratch: Path) -> None:
    """Put a file that is complete in the place of another; at every moment one of the two is there.

    `scratch` is as for :func:`write_new_file`.
    """
    _write(scratch, content)
    scratch.replace(target)
    sync_folder(target.parent)


def _write(scratch: Path, content: bytes) -> None:
    scratch.unlink(missing_ok=True)
    with scratch.open("xb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def remove_empty_folders(folder: Path) -> None:
    """Remove a folder that holds nothing but folders; one that holds a file stays, and so do its parents.

    Only ``rmdir`` is used, so that a file can never go with its folder.
    """
    found = [folder]
    for parent in found:  # grows while it is walked: no recursion, whatever the depth
        with suppress(FileNotFoundError), os.scandir(parent) as entries:
            found.extend(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
    for empty in reversed(found):
        try:
            empty.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
