"""A service with a small model of random weights: what is tested here is what happens to files, not what they show."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_factory import make_bundle
from installed_command import WatchedFolder


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a bundle that answers in milliseconds."""
    return make_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture
def service(tmp_path: Path, database_url: str, small_bundle: Path) -> Iterator[WatchedFolder]:
    """Make a home folder with a migrated database; once per engine.  What still runs at the end is killed."""
    folder = WatchedFolder(tmp_path / "home", database_url)
    folder.settings |= {"XRAY_BATCH_BUNDLE": str(small_bundle), "XRAY_BATCH_INCOMPLETE_SECONDS": "2"}
    folder.inbox.mkdir(parents=True)
    yield folder
    for process in folder.processes:
        process.kill()
        process.wait()
