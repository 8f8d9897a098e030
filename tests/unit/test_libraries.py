"""How large libraries are imported."""

import gc

import pytest

from xray_batch.libraries import uncollected


def test_what_comes_meanwhile_is_left_alone_by_the_collector():
    """The garbage collector rests while libraries are imported, then works, and does not go through them again."""
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        kept = [[] for _ in range(100)]
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    assert not any(each is kept for each in gc.get_objects())
    gc.unfreeze()
