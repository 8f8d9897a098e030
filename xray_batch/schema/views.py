"""The views, as SQL texts, and what completes the tables: SQLAlchemy cannot describe views and triggers."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from xray_batch.records import ACCOUNTING_COLUMNS, RESULT_COLUMNS
from xray_batch.schema.tables import BIG_KEY, JSON_OBJECT, Base, UtcDateTime
from xray_batch.schema.triggers import (
    POSTGRESQL_FUNCTIONS,
    POSTGRESQL_TRIGGERS,
    SQLITE_TRIGGERS,
    TALLY_ROWS,
    create_function,
)

VIEWS: dict[str, str] = {
    "results": """\
SELECT result.result_id, result.outcome, result.reason_code, result.reason,
       1 - result.p_normal AS p_pneumonia, result.p_normal, result.p_bacterial, result.p_viral,
       result.p_covid19, result.threshold_low, result.threshold_high, result.disagreement,
       result.warnings, model.model_id, result.model_sha256, result.preprocess_sha256,
       arrival.source_name, result.content_sha256, instance.format, instance.transfer_syntax_uid,
       instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid,
       instance.patient_id, instance.accession_number, instance.study_date, instance.modality,
       instance.view_position, arrival.received_at, result.classified_at, result.processing_seconds,
       result.heat_in_thorax, result.member_probabilities, result.input_mean, result.input_std
FROM result
JOIN model ON model.model_sha256 = result.model_sha256
JOIN arrival ON arrival.arrival_id = result.arrival_id
LEFT JOIN instance ON instance.content_sha256 = result.content_sha256""",
    # Every count is taken from the rows by itself, so that a broken state shows up as `lost`.
    "accounting": """\
SELECT arrivals, results, rejected, duplicates, pending,
       arrivals - results - rejected - duplicates - pending AS lost
FROM (
    SELECT count(*) AS arrivals,
           count(CASE WHEN arrival.disposition = 'work' AND content.state = 'done'
                       AND result.outcome <> 'not_analysed' THEN 1 END) AS results,
           count(CASE WHEN arrival.disposition = 'work' AND content.state = 'done'
                       AND result.outcome = 'not_analysed' THEN 1 END) AS rejected,
           count(CASE WHEN arrival.disposition = 'duplicate' THEN 1 END) AS duplicates,
           count(CASE WHEN arrival.disposition = 'work'
                       AND content.state IN ('queued', 'leased') THEN 1 END) AS pending
    FROM arrival
    LEFT JOIN content ON content.content_sha256 = arrival.content_sha256
    LEFT JOIN (SELECT content_sha256, max(result_id) AS result_id
               FROM result GROUP BY content_sha256) AS latest
           ON latest.content_sha256 = arrival.content_sha256
    LEFT JOIN result ON result.result_id = latest.result_id
) AS counted""",
}
"""Name to SELECT; the outside relies on these."""

_RESULT_TYPES: dict[str, sa.types.TypeEngine[Any]] = {  # the other columns are text
    "result_id": BIG_KEY,
    **dict.fromkeys(("p_pneumonia", "p_normal", "p_bacterial", "p_viral", "p_covid19"), sa.Double()),
    **dict.fromkeys(("threshold_low", "threshold_high", "disagreement"), sa.Double()),
    "study_date": sa.Date(),
    **dict.fromkeys(("received_at", "classified_at"), UtcDateTime()),
    **dict.fromkeys(("processing_seconds", "heat_in_thorax", "input_mean", "input_std"), sa.Double()),
    "member_probabilities": JSON_OBJECT,
}

#: The view `results` for typed selects; not part of the metadata, since it is no table.
RESULTS = sa.table("results", *(sa.column(name, _RESULT_TYPES.get(name, sa.Text())) for name in RESULT_COLUMNS))

#: The view `accounting`, likewise.
ACCOUNTING = sa.table("accounting", *(sa.column(name, sa.BigInteger()) for name in ACCOUNTING_COLUMNS))


def create_view(name: str) -> str:
    """Return the statement that creates a view."""
    return f"CREATE VIEW {name} AS\n{VIEWS[name]}"


def _create_views_and_triggers(target: sa.MetaData, connection: sa.Connection, **_: object) -> None:
    """Complete `metadata.create_all` with what SQLAlchemy cannot describe."""
    if connection.dialect.name == "sqlite":
        triggers = [*SQLITE_TRIGGERS, TALLY_ROWS]
    else:
        triggers = [*map(create_function, POSTGRESQL_FUNCTIONS), *POSTGRESQL_TRIGGERS]
    for statement in (*(create_view(name) for name in VIEWS), *triggers):
        connection.execute(sa.text(statement))


event.listen(Base.metadata, "after_create", _create_views_and_triggers)


def missing_views_and_triggers(connection: sa.Connection) -> list[str]:
    """Return the statements that create the views and triggers which are absent or differ.

    Alembic compares tables only; `migrations/env.py` adds these to its comparison.
    """
    if connection.dialect.name == "sqlite":
        return _missing_in_sqlite(connection)
    return _missing_in_postgresql(connection)


def _missing_in_sqlite(connection: sa.Connection) -> list[str]:
    """SQLite keeps the text of each statement as it was given."""
    found = set(connection.scalars(sa.text("SELECT sql FROM sqlite_master WHERE type IN ('view', 'trigger')")))
    expected = [*(create_view(name) for name in VIEWS), *SQLITE_TRIGGERS]
    return [statement for statement in expected if statement not in found]


def _missing_in_postgresql(connection: sa.Connection) -> list[str]:
    """PostgreSQL rewrites a view's text, so it is asked to rewrite the expected text as well."""
    missing = []
    for name, select in VIEWS.items():
        with connection.begin_nested() as savepoint:
            connection.execute(sa.text(f"CREATE TEMPORARY VIEW expected_{name} AS {select}"))
            same = connection.scalar(
                sa.text("SELECT pg_get_viewdef(to_regclass(:found)) = pg_get_viewdef(to_regclass(:expected))"),
                {"found": name, "expected": f"expected_{name}"},
            )
            savepoint.rollback()
        if not same:
            missing.append(create_view(name))
    functions = {name: (body, definer) for name, body, definer in connection.execute(sa.text(_FUNCTIONS_FOUND))}
    missing += [
        create_function(name)
        for name, (head, body) in POSTGRESQL_FUNCTIONS.items()
        if functions.get(name) != (body, "SECURITY DEFINER" in head)
    ]
    triggers = connection.execute(sa.text(_TRIGGERS_FOUND)).all()
    return missing + [
        statement
        for statement in POSTGRESQL_TRIGGERS
        if not any(
            statement.startswith(f"CREATE TRIGGER {name} ")
            and f" ON {table}\n" in statement
            and statement.endswith(f" {function}()")
            for name, table, function in triggers
        )
    ]


_FUNCTIONS_FOUND = "SELECT proname, prosrc, prosecdef FROM pg_proc WHERE pronamespace = 'public'::regnamespace"

#: Those that are not disabled, with their tables and functions.
_TRIGGERS_FOUND = """\
SELECT tgname, relname, proname FROM pg_trigger
JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE NOT tgisinternal AND tgenabled = 'O'
AND relnamespace = 'public'::regnamespace AND pronamespace = 'public'::regnamespace"""
