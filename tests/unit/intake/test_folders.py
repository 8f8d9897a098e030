import errno
import os
import stat
from pathlib import Path

import pytest

from xray_batch.errors import ConfigurationError
from xray_batch.intake import Folders


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_create_makes_every_folder_with_its_mode(tmp_path):
    """Senders share the inbox by group; all else is the service's."""
    folders = Folders(tmp_path / "deep" / "home")
    umask = os.umask(0o077)
    try:
        folders.create()
    finally:
        os.umask(umask)
    assert _mode(folders.inbox) == 0o2770
    private = (folders.spool, folders.processed, folders.rejected, folders.duplicates, folders.bundles)
    assert [_mode(folder) for folder in private] == [0o750] * 5


def test_create_again_changes_nothing(folders):
    """The mode an operator gave a folder stays, and so does what is in it."""
    folders.inbox.chmod(0o2775)
    (folders.inbox / "x.dcm").write_bytes(b"x")
    folders.create()
    assert _mode(folders.inbox) == 0o2775
    assert (folders.inbox / "x.dcm").read_bytes() == b"x"


def test_a_file_in_the_place_of_a_folder_is_a_configuration_error(tmp_path):
    """The message names the path and the reason."""
    (tmp_path / "spool").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"spool cannot be used as a folder: Not a directory\."):
        Folders(tmp_path).create()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a second file system")
def test_folders_on_two_file_systems_are_a_configuration_error(tmp_path):
    """A rename cannot cross file systems, and a copy could be interrupted."""
    if Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    (tmp_path / "inbox").symlink_to("/dev/shm")
    with pytest.raises(ConfigurationError, match=r"inbox and .*spool are on different file systems"):
        Folders(tmp_path).create()


def test_an_inbox_that_cannot_have_its_mode_is_not_left_behind(tmp_path, monkeypatch):
    """Where set-group-id is refused, as by the unit, every start says so: the next does not take a half-made inbox."""
    chmod = Path.chmod

    def refuse_set_group_id(path, mode):
        if mode & stat.S_ISGID:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", refuse_set_group_id)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"inbox cannot be used as a folder: Operation not permitted\."):
            Folders(tmp_path).create()
