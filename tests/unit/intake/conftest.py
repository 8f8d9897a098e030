"""One installation in a temporary folder, and the ways files get into it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xray_batch.intake import Claimed, Folders, InboxFile, claim, hash_claimed, scan
from xray_batch.records import Arrival


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Make an installation with all its folders, empty."""
    made = Folders(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def drop(folders: Folders) -> Callable[..., Path]:
    """Write a complete file into the inbox; the name may be bytes."""

    def write(name: str | bytes, content: bytes = b"pixels") -> Path:
        path = folders.inbox / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def find(folders: Folders) -> Callable[[], InboxFile]:
    """Scan an inbox that holds exactly one file."""

    def only() -> InboxFile:
        (file,) = scan(folders.inbox).files
        return file

    return only


@pytest.fixture
def claim_one(folders: Folders, drop, find) -> Callable[..., Claimed]:
    """Drop one file and claim it."""

    def drop_and_claim(name: str | bytes, content: bytes = b"pixels") -> Claimed:
        drop(name, content)
        claimed = claim(find(), folders)
        assert claimed is not None
        return claimed

    return drop_and_claim


@pytest.fixture
def files_in() -> Callable[[Path], dict[str, bytes]]:
    """Read a folder: relative name to content, of everything that is no folder."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            os.fspath(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if not path.is_dir()
        }

    return read


@pytest.fixture
def arrive(claim_one) -> Callable[..., Arrival]:
    """Drop, claim and hash one file."""

    def drop_claim_hash(name: str | bytes, content: bytes = b"pixels") -> Arrival:
        arrival = hash_claimed(claim_one(name, content))
        assert arrival is not None
        return arrival

    return drop_claim_hash
