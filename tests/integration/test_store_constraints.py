"""What the database itself refuses, on both engines: the last line behind a bug of ours."""

import pytest
import sqlalchemy as sa
from store_records import make_analysed, make_arrival, make_model, make_rejected, sha256_of

from xray_batch import database
from xray_batch.database import read_transaction
from xray_batch.errors import DatabaseRefusedError, DatabaseUnavailableError, TransientError
from xray_batch.revisions import open_database, upgrade_database
from xray_batch.store import Store

MODEL = make_model()


@pytest.fixture
def engine(database_url):
    """Engine of a fresh database with one analysed and one rejected file."""
    engine = open_database(database_url)
    store = Store(engine)
    store.register_model(MODEL)
    store.record_in_place(
        [(make_arrival("analysed"), make_analysed()), (make_arrival("rejected"), make_rejected())], MODEL
    )
    yield engine
    engine.dispose()


REFUSED = {
    "outcome is unknown": "UPDATE result SET outcome = 'healthy' WHERE p_normal IS NOT NULL",
    "outcome is null": "UPDATE result SET outcome = NULL",
    "analysed with a reason": "UPDATE result SET reason_code = 'truncated' WHERE p_normal IS NOT NULL",
    "analysed without a probability": "UPDATE result SET p_viral = NULL WHERE p_normal IS NOT NULL",
    "analysed without a threshold": "UPDATE result SET threshold_low = NULL WHERE p_normal IS NOT NULL",
    "not analysed without a reason": "UPDATE result SET reason_code = NULL WHERE p_normal IS NULL",
    "not analysed with a probability": "UPDATE result SET p_normal = 1 WHERE p_normal IS NULL",
    "not analysed turned into normal": "UPDATE result SET outcome = 'normal' WHERE p_normal IS NULL",
    "probability above 1": "UPDATE result SET p_normal = 1.5, p_viral = -1 WHERE p_normal IS NOT NULL",
    "probability below 0": (
        "UPDATE result SET p_covid19 = -0.1, p_normal = p_normal + p_covid19 + 0.1 WHERE p_normal IS NOT NULL"
    ),
    "probabilities not summing to 1": "UPDATE result SET p_normal = p_normal + 0.000002",
    "disagreement above 1": "UPDATE result SET disagreement = 1.01",
    "share of heat above 1": "UPDATE result SET heat_in_thorax = 1.01 WHERE p_normal IS NOT NULL",
    "share of heat below 0": "UPDATE result SET heat_in_thorax = -0.01 WHERE p_normal IS NOT NULL",
    "not analysed with a share of heat": "UPDATE result SET heat_in_thorax = 0.5 WHERE p_normal IS NULL",
    "not analysed with members": "UPDATE result SET member_probabilities = '{}' WHERE p_normal IS NULL",
    "mean of the input above 1": "UPDATE result SET input_mean = 1.01 WHERE p_normal IS NOT NULL",
    "SD of the input below 0": "UPDATE result SET input_std = -0.01 WHERE p_normal IS NOT NULL",
    "not analysed with a mean": "UPDATE result SET input_mean = 0.5 WHERE p_normal IS NULL",
    "not analysed with an SD": "UPDATE result SET input_std = 0.5 WHERE p_normal IS NULL",
    "thresholds crossed": "UPDATE result SET threshold_low = 0.9",
    "threshold above 1": "UPDATE result SET threshold_high = 1.1",
    "negative duration": "UPDATE result SET processing_seconds = -1",
    "unknown model": "UPDATE result SET model_sha256 = 'x'",
    "state is unknown": "UPDATE content SET state = 'lost'",
    "leased without a token": "UPDATE content SET state = 'leased'",
    "queued with a lease": "UPDATE content SET state = 'queued', lease_until = '2026-01-01 00:00:00.000000'",
    "negative attempts": "UPDATE content SET attempts = -1",
    "negative size": "UPDATE content SET size = -1",
    "disposition is unknown": "UPDATE arrival SET disposition = 'lost'",
    "origin is unknown": "UPDATE arrival SET origin = 'mail'",
    "filed nowhere in time": "UPDATE arrival SET filed_path = 'x'",
    "filed in two places": "UPDATE arrival SET filed_at = received_at, filed_path = 'x', previous_path = 'y'",
    "arrival of no content": "UPDATE arrival SET content_sha256 = 'x'",
    "format is unknown": "UPDATE instance SET format = 'tiff'",
    "content with an arrival": "DELETE FROM content",
    "short hash": "INSERT INTO model VALUES ('abc', 'id', '{}', '2026-01-01 00:00:00.000000')",
    "second answer": (
        "INSERT INTO result (content_sha256, model_sha256, preprocess_sha256, arrival_id, outcome,"
        " reason_code, reason, warnings, classified_at, processing_seconds)"
        " SELECT content_sha256, model_sha256, preprocess_sha256, arrival_id, 'not_analysed',"
        " 'truncated', 'x', '', classified_at, 1 FROM result"
    ),
}


class TestRefusedRows:
    """Raw SQL, past all of our code."""

    @pytest.mark.parametrize("statement", REFUSED.values(), ids=REFUSED.keys())
    def test_refused(self, engine, statement):
        """The database refuses the row."""
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.execute(sa.text(statement))

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE result SET p_normal = p_normal + 0.0000001 WHERE p_normal IS NOT NULL",
            "UPDATE result SET threshold_low = threshold_high WHERE p_normal IS NOT NULL",
            "UPDATE result SET heat_in_thorax = NULL WHERE p_normal IS NOT NULL",
            "UPDATE result SET member_probabilities = NULL, input_mean = NULL, input_std = NULL WHERE p_normal > 0",
        ],
    )
    def test_accepted(self, engine, statement):
        """Rounding of float32, a single threshold, a picture without heat and an older row are no errors."""
        with engine.begin() as connection:
            assert connection.execute(sa.text(statement)).rowcount == 1


class TestErrors:
    """How the database's errors reach the caller."""

    def test_refusal_quotes_no_patient(self, engine):
        """A refused row is an error that names the constraint and no value."""
        finished = make_analysed(patient_id="SECRET-ID")
        broken = type(finished)(
            **{name: getattr(finished, name) for name in finished.__slots__ if name != "processing_seconds"},
            processing_seconds=-1,
        )
        with pytest.raises(DatabaseRefusedError, match="ck_result_processing_seconds") as refused:
            Store(engine).record_in_place([(make_arrival("SECRET"), broken)], MODEL)
        assert refused.value.__cause__ is None
        assert sha256_of("SECRET") not in str(refused.value)
        assert not isinstance(refused.value, TransientError)

    def test_locked_sqlite(self, tmp_path, monkeypatch):
        """A SQLite database locked for too long is a transient error with its cause; later it works."""
        monkeypatch.setattr(database, "SQLITE_BUSY_SECONDS", 0.1)
        url = f"sqlite:///{tmp_path / 'results.sqlite3'}"
        engine, other = open_database(url), open_database(url)
        store = Store(engine)
        with (
            other.execution_options(**{database.BEGIN_MODE: "EXCLUSIVE"}).begin(),
            pytest.raises(DatabaseUnavailableError, match="database is locked") as unavailable,
        ):
            store.register_model(MODEL)
        assert isinstance(unavailable.value.__cause__, sa.exc.OperationalError)
        store.register_model(MODEL)
        engine.dispose()
        other.dispose()

    def test_locked_row_in_postgresql(self, postgresql_server, postgresql_template, empty_postgresql_url):
        """A row locked for longer than lock_timeout is a transient error without its values."""
        upgrade_database(empty_postgresql_url)
        engine = open_database(f"{empty_postgresql_url}?options=-c lock_timeout%3D100ms")
        store = Store(engine)
        arrival = make_arrival(source_name="SECRET.dcm")
        store.add_arrivals([arrival], MODEL)
        (lease,) = store.lease(limit=1, lease_seconds=60)
        with engine.begin() as other:
            other.execute(sa.text("SELECT * FROM content FOR UPDATE"))
            assert store.lease(limit=1, lease_seconds=60) == []
            with pytest.raises(DatabaseUnavailableError, match="lock timeout") as unavailable:
                store.finish([(lease, make_analysed(patient_id="SECRET"))], MODEL)
        assert "SECRET" not in f"{unavailable.value} {unavailable.value.__cause__}"
        assert len(store.release([lease])) == 1
        engine.dispose()

    def test_connection_lost(self, empty_postgresql_url):
        """A connection cut by the server is a transient error, and the next call gets a new one."""
        upgrade_database(empty_postgresql_url)
        engine = open_database(empty_postgresql_url)
        with (
            pytest.raises(DatabaseUnavailableError),
            read_transaction(engine) as connection,
        ):
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert Store(engine).accounting().balances
        engine.dispose()
