"""The pipeline on the small bundle: how many films it takes together."""

import pytest
import torch
from PIL import Image

from xray_batch.bundle import Bundle
from xray_batch.pipeline import engine
from xray_batch.pipeline.engine import Job, Pipeline
from xray_batch.settings import Settings


@pytest.fixture
def films(tmp_path):
    """Write nine films, which differ."""
    ramp = Image.linear_gradient("L").resize((300, 300))
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        ramp.rotate(number, fillcolor=90).save(path)
    return paths


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("cuda", 4)])
def test_films_together(device, most, bundle_folder, films, tmp_path, monkeypatch):
    """On a CPU whose passes take too long films go one by one; on a GPU one takes as long as all, and they do not."""
    monkeypatch.setattr(engine, "PASS_SECONDS", 1e-9)
    settings = Settings(home=tmp_path, batch_size=4, decode_workers=1, device="cpu")
    with Pipeline(Bundle(bundle_folder), settings) as pipeline:
        pipeline.device = torch.device(device)  # of which there is none here: the networks stay where they are
        for path in films[:1]:
            list(pipeline.run([Job(path=path, context=None)]))
        assert pipeline._together == most
