"""Fixtures of the acceptance tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from installed_command import WatchedFolder


@pytest.fixture
def watched(tmp_path: Path, database_url: str) -> Iterator[WatchedFolder]:
    """Make a home folder with a migrated database; once per engine.  What still runs at the end is killed."""
    folder = WatchedFolder(tmp_path / "home", database_url)
    folder.inbox.mkdir(parents=True)
    yield folder
    for process in folder.processes:
        process.kill()
        process.wait()
