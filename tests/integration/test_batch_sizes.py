"""Real films through the packaged bundle: what is said of a film, whatever is classified together with it."""

import pytest
import torch

from xray_batch.bundle import PACKAGED_BUNDLES, Bundle
from xray_batch.classify import Ensemble
from xray_batch.decode import decode_file
from xray_batch.networks import can_pack
from xray_batch.standardize import prepare

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_film_has_the_same_bits_in_any_company(dtype, shared_data):
    """Alone or in batches of 2 to 16, first or last: every number is the same, those of the gate among them."""
    if not can_pack(CPU, dtype):
        pytest.skip(f"oneDNN does not compute in {dtype} here")
    bundle = Bundle(PACKAGED_BUNDLES / "default")
    paths = sorted((shared_data / "cxr" / "kermany").glob("*.jpeg"))[::300]
    films = [prepare(decode_file(path), bundle.manifest.input_spec) for path in paths]
    assert len(films) > 16
    ensemble = Ensemble(bundle, device=CPU, dtype=dtype, batch_size=16)
    alone = [answer for film in films for answer in ensemble.examine([film])]
    for size in (2, 3, 8, 16):
        groups = (films[start : start + size] for start in range(0, len(films), size))
        assert [answer for group in groups for answer in ensemble.examine(group)] == alone
    assert ensemble.examine(films[::-1])[::-1] == alone
