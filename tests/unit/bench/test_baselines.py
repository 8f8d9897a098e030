import numpy as np
import pytest
from input_specs import make_spec

from xray_batch.bench.baselines import read_film
from xray_batch.bench.end_to_end import MIX
from xray_batch.bench.films import encodings, make_films
from xray_batch.decode import decode_file
from xray_batch.standardize import prepare


@pytest.mark.parametrize(
    "encoding", [encoding for encoding in encodings() if encoding.name in MIX], ids=lambda encoding: encoding.name
)
def test_the_baselines_see_the_same_film(encoding, tmp_path):
    """What the baselines make of a film of the mix is the pipeline's model input, but for the ends of the scale."""
    path = make_films(256)[0].write(tmp_path, encoding)
    spec = make_spec()
    expected = prepare(decode_file(path), spec).pixels
    assert np.corrcoef(read_film(path, spec).ravel(), expected.ravel())[0, 1] > 0.9999


def test_the_mix_can_be_written_here():
    """The encodings of the mix exist, and their shares are all of it."""
    assert set(MIX) <= {encoding.name for encoding in encodings()}
    assert sum(MIX.values()) == 100
