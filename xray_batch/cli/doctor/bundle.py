"""Check of the model bundle."""

from xray_batch.cli.doctor.check import Level
from xray_batch.cli.options import open_bundle
from xray_batch.settings import Settings


def bundle(settings: Settings) -> tuple[Level, str]:
    """Load the bundle against its hashes, and see whether it was made for what this version renders."""
    from xray_batch.pipeline.engine import check_fit

    found = open_bundle(settings)
    found.load_networks()
    found.load_gate()
    check_fit(found)
    version = found.manifest.input.rendering_version
    hashes = f"all hashes match, manifest SHA-256 {found.sha256[:12]}"
    return Level.OK, f"{found.manifest.model_id}, {hashes}, rendering version {version}"
