"""Where bundles lie, told without loading one."""

import hashlib
import os
import shutil
import subprocess
import sys

from xray_batch.bundle_folders import MANIFEST_NAME, PACKAGED_BUNDLES, folder_with_manifest, named_folder

DEFAULT = PACKAGED_BUNDLES / "default"


def sha256_of(folder):
    """Return the SHA-256 of a bundle's manifest."""
    return hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()


def test_found_by_its_manifest(tmp_path):
    """A bundle is found by the bytes of its manifest: packaged, installed, or configured by its path."""
    installed, elsewhere = tmp_path / "installed" / "old", tmp_path / "elsewhere"
    for folder in (installed, elsewhere):
        folder.mkdir(parents=True)
        (folder / MANIFEST_NAME).write_text(folder.name)
    (tmp_path / "installed" / "no-bundle").mkdir()
    assert folder_with_manifest(sha256_of(DEFAULT), "default", tmp_path / "installed") == DEFAULT
    assert folder_with_manifest(sha256_of(installed), "default", tmp_path / "installed") == installed
    assert folder_with_manifest(sha256_of(elsewhere), str(elsewhere), tmp_path / "installed") == elsewhere
    assert folder_with_manifest(sha256_of(elsewhere), "default", tmp_path / "installed") is None
    assert folder_with_manifest("0" * 64, "gone", tmp_path / "none") is None


def test_a_pipe_in_place_of_a_manifest(tmp_path):
    """It is passed over, and nobody waits for what comes out of it."""
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / MANIFEST_NAME)
    assert folder_with_manifest("0" * 64, "odd", tmp_path) is None


def test_installed_before_packaged(tmp_path):
    """A name means an installed bundle before a packaged one, and a path itself; an unknown name means nothing."""
    assert named_folder("default", tmp_path) == DEFAULT
    shutil.copytree(DEFAULT, tmp_path / "default", ignore=shutil.ignore_patterns("*.safetensors"))
    assert named_folder("default", tmp_path) == tmp_path / "default"
    assert named_folder("./default", tmp_path).name == "default"
    assert named_folder("unknown", tmp_path) is None


def test_without_torch():
    """Asking where bundles lie loads neither torch nor the bundle's code."""
    code = "import sys, xray_batch.bundle_folders; print({'torch', 'xray_batch.bundle'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
