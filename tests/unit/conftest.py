"""One small real bundle for the whole session."""

from pathlib import Path

import pytest
from bundle_factory import make_bundle


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle with random weights, for 32 x 32 images; tests do not change it."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small")
