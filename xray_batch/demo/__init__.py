"""The packaged sample studies of `xray-batch demo`; `README.md` beside it says where each comes from."""

from pathlib import Path


def sample_files() -> Path:
    """Return the folder of the samples."""
    return Path(__file__).parent / "samples"
