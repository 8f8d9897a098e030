"""The kind of file system a folder is on, from the kernel's table of mounts."""

import pytest

from xray_batch import mounts
from xray_batch.errors import ConfigurationError
from xray_batch.mounts import is_network
from xray_batch.revisions import open_database


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Return a function that says, in the kernel's own form, that folders are mount points."""

    def say(**kinds):
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
        for number, (name, kind) in enumerate(kinds.items()):
            point = str(tmp_path / name.replace("_", " ")).replace(" ", r"\040")
            lines.append(f"{30 + number} 22 0:{number} / {point} rw,nosuid shared:9 master:1 - {kind} server:/share rw")
        table = tmp_path / "mountinfo"
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.setattr(mounts, "MOUNT_TABLE", table)

    return say


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3"])
def test_network(kind, mounted, tmp_path):
    """A folder below the mount point of a share is on the network; its neighbour with a longer name is not."""
    mounted(film_share=kind)
    inside, beside = tmp_path / "film share" / "ward", tmp_path / "film shares"
    inside.mkdir(parents=True)
    beside.mkdir()
    assert is_network(inside)
    assert not is_network(beside)


def test_the_nearest_mount_counts(mounted, tmp_path):
    """A disk mounted within a share is local, and a link to a share leads there."""
    mounted(share="nfs4", **{"share/disk": "xfs"})
    (tmp_path / "share" / "disk").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "share")
    assert not is_network(tmp_path / "share" / "disk")
    assert is_network(tmp_path / "link")


def test_here(tmp_path):
    """The kernel's own table is understood: a temporary folder is on some file system."""
    assert mounts._type_of(tmp_path)
    assert not is_network(tmp_path)


def test_no_table(tmp_path, monkeypatch):
    """Where the kernel has no table every folder counts as local."""
    monkeypatch.setattr(mounts, "MOUNT_TABLE", tmp_path / "none")
    assert not is_network(tmp_path)


def test_sqlite_on_a_share_is_refused(mounted, tmp_path):
    """No file is made there: its locks could not be trusted."""
    mounted(share="nfs4")
    (tmp_path / "share").mkdir()
    with pytest.raises(ConfigurationError, match="is on a network file system; SQLite needs a local disk"):
        open_database(f"sqlite:///{tmp_path / 'share' / 'results.sqlite3'}")
    assert list((tmp_path / "share").iterdir()) == []
