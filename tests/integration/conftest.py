"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from store_records import make_model

from xray_batch.revisions import open_database
from xray_batch.store import Store


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """Engine of a fresh database, as the product opens it."""
    engine = open_database(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: sa.Engine) -> Store:
    """Store on a fresh database that knows the two models of `store_records`."""
    store = Store(engine)
    store.register_model(make_model())
    store.register_model(make_model("2.0.0"))
    return store
