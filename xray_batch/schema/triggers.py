"""The triggers, as SQL texts: the audit trail that only grows, and the tally of arrivals.

What an arrival's standing is, is what the view `accounting` says; every standing is moved in the transaction that
moves the arrival.  The view counts the rows themselves, so a tally that is wrong can be found out.
"""

#: Of a content by its newest answer, when it is done; `lost` is what must never be.  `{content}` is its SHA-256.
_ANSWERED = """\
coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = {content}{also}
        ORDER BY result_id DESC LIMIT 1), 'lost')"""


def _answered(content: str, also: str = "") -> str:
    return _ANSWERED.format(content=content, also=also)


def _of_arrival(row: str) -> str:
    """Return the standing of the arrival NEW or OLD, while its content is as it is."""
    return f"""\
CASE {row}.disposition WHEN 'duplicate' THEN 'duplicates' ELSE (
      SELECT CASE WHEN state <> 'done' THEN 'pending'
             ELSE {_answered(f"{row}.content_sha256")} END
      FROM content WHERE content.content_sha256 = {row}.content_sha256) END"""


def _of_content(row: str) -> str:
    """Return the standing of the work of the content NEW or OLD."""
    return f"CASE WHEN {row}.state <> 'done' THEN 'pending'\n      ELSE {_answered(f'{row}.content_sha256')} END"


def _add(number: str, standing: str) -> str:
    return f"  UPDATE tally SET arrivals = arrivals\n      {number}\n  WHERE standing = {standing};"


def _works(row: str) -> str:
    """Return the number of arrivals whose standing is that of their content."""
    return f"(SELECT count(*) FROM arrival WHERE content_sha256 = {row}.content_sha256 AND disposition = 'work')"


def _works_if_done(row: str) -> str:
    done = f"(SELECT state = 'done' FROM content WHERE content_sha256 = {row}.content_sha256)"
    return f"{_works(row)}\n      * {done}"


def _sqlite_trigger(name: str, when: str, *changes: str) -> str:
    body = "\n".join(changes)
    return f"CREATE TRIGGER {name} AFTER {when}\nBEGIN\n{body}\nEND"


_KIND_OF_OLD = "CASE OLD.outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END"

#: The standing before a result was changed or removed: its own when no newer one was there.
_BEFORE_CHANGE = f"""\
CASE WHEN EXISTS (
        SELECT 1 FROM result WHERE content_sha256 = OLD.content_sha256 AND result_id > OLD.result_id)
      THEN {_answered("OLD.content_sha256")}
      ELSE {_KIND_OF_OLD} END"""

SQLITE_TRIGGERS: tuple[str, ...] = (
    """\
CREATE TRIGGER event_no_update BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    """\
CREATE TRIGGER event_no_delete BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'event is append-only'); END""",
    _sqlite_trigger("tally_arrival_added", "INSERT ON arrival", _add("+ 1", _of_arrival("NEW"))),
    _sqlite_trigger("tally_arrival_removed", "DELETE ON arrival", _add("- 1", _of_arrival("OLD"))),
    _sqlite_trigger(
        "tally_arrival_changed",
        "UPDATE OF disposition, content_sha256 ON arrival",
        _add("- 1", _of_arrival("OLD")),
        _add("+ 1", _of_arrival("NEW")),
    ),
    _sqlite_trigger(
        "tally_content_changed",
        "UPDATE OF state ON content\nWHEN (OLD.state = 'done') <> (NEW.state = 'done')",
        _add(f"- {_works('OLD')}", _of_content("OLD")),
        _add(f"+ {_works('NEW')}", _of_content("NEW")),
    ),
    _sqlite_trigger(
        "tally_result_added",
        "INSERT ON result",
        _add(f"- {_works_if_done('NEW')}", _answered("NEW.content_sha256", " AND result_id <> NEW.result_id")),
        _add(f"+ {_works_if_done('NEW')}", _answered("NEW.content_sha256")),
    ),
    _sqlite_trigger(
        "tally_result_removed",
        "DELETE ON result",
        _add(f"- {_works_if_done('OLD')}", _BEFORE_CHANGE),
        _add(f"+ {_works_if_done('OLD')}", _answered("OLD.content_sha256")),
    ),
    _sqlite_trigger(
        "tally_result_changed",
        "UPDATE OF outcome ON result\nWHEN (OLD.outcome = 'not_analysed') <> (NEW.outcome = 'not_analysed')",
        _add(f"- {_works_if_done('OLD')}", _BEFORE_CHANGE),
        _add(f"+ {_works_if_done('NEW')}", _answered("NEW.content_sha256")),
    ),
)

#: SQLite has one writer at a time, and so one row for each standing.
TALLY_ROWS = """\
INSERT INTO tally (standing, arrivals)
VALUES ('results', 0), ('rejected', 0), ('duplicates', 0), ('pending', 0), ('lost', 0)"""

_KEEPS_TALLY = "RETURNS trigger LANGUAGE plpgsql\nSECURITY DEFINER SET search_path = public, pg_temp"

#: Name to what stands before the body, and the body.  Security definer: who writes rows needs no right on `tally`.
POSTGRESQL_FUNCTIONS: dict[str, tuple[str, str]] = {
    "event_append_only": (
        "event_append_only() RETURNS trigger LANGUAGE plpgsql",
        """
BEGIN
    RAISE EXCEPTION 'event is append-only';
END
""",
    ),
    "tally_add": (
        "tally_add(to_standing text, number bigint) RETURNS void LANGUAGE plpgsql",
        """
BEGIN
    IF number = 0 THEN
        RETURN;
    END IF;
    -- A row that nobody else has locked; never waiting, nobody can wait in a circle.
    UPDATE tally SET arrivals = arrivals + number
    WHERE tally_id = (SELECT tally_id FROM tally WHERE standing = to_standing
                      ORDER BY tally_id LIMIT 1 FOR UPDATE SKIP LOCKED);
    IF NOT FOUND THEN
        INSERT INTO tally (standing, arrivals) VALUES (to_standing, number);
    END IF;
END
""",
    ),
    "tally_answered": (
        # The array, and no LIMIT: no plan may read results backwards until it meets the content's.
        "tally_answered(sha256 text, without_id bigint) RETURNS text LANGUAGE sql STABLE",
        """
SELECT CASE (array_agg(outcome::text ORDER BY result_id DESC))[1]
       WHEN 'not_analysed' THEN 'rejected' ELSE coalesce(min('results'), 'lost') END
FROM result WHERE content_sha256 = sha256 AND result_id IS DISTINCT FROM without_id
""",
    ),
    "tally_arrival": (
        f"tally_arrival() {_KEEPS_TALLY}",
        """
DECLARE
    moved record;
BEGIN
    FOR moved IN
        SELECT CASE WHEN each.disposition = 'duplicate' THEN 'duplicates' WHEN content.state <> 'done' THEN 'pending'
                    ELSE tally_answered(each.content_sha256, NULL) END AS standing, each.number
        FROM (SELECT OLD.content_sha256, OLD.disposition, -1 AS number WHERE TG_OP <> 'INSERT'
              UNION ALL
              SELECT NEW.content_sha256, NEW.disposition, 1 WHERE TG_OP <> 'DELETE') AS each
        JOIN content ON content.content_sha256 = each.content_sha256
    LOOP
        PERFORM tally_add(moved.standing, moved.number);
    END LOOP;
    RETURN NULL;
END
""",
    ),
    "tally_content": (
        f"tally_content() {_KEEPS_TALLY}",
        """
DECLARE
    works bigint;
    answered text := tally_answered(NEW.content_sha256, NULL);
BEGIN
    SELECT count(*) INTO works FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work';
    PERFORM tally_add(CASE OLD.state WHEN 'done' THEN answered ELSE 'pending' END, -works);
    PERFORM tally_add(CASE NEW.state WHEN 'done' THEN answered ELSE 'pending' END, works);
    RETURN NULL;
END
""",
    ),
    "tally_result": (
        f"tally_result() {_KEEPS_TALLY}",
        """
DECLARE
    changed result := coalesce(NEW, OLD);
    works bigint;
    before text := tally_answered(changed.content_sha256, CASE TG_OP WHEN 'INSERT' THEN changed.result_id END);
    since text := tally_answered(changed.content_sha256, CASE TG_OP WHEN 'DELETE' THEN changed.result_id END);
BEGIN
    IF TG_OP = 'UPDATE' AND NOT EXISTS (
        SELECT FROM result WHERE content_sha256 = changed.content_sha256 AND result_id > changed.result_id
    ) THEN
        before := CASE OLD.outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END;
    END IF;
    IF before <> since AND EXISTS (
        SELECT FROM content WHERE content_sha256 = changed.content_sha256 AND state = 'done'
    ) THEN
        SELECT count(*) INTO works FROM arrival
        WHERE content_sha256 = changed.content_sha256 AND disposition = 'work';
        PERFORM tally_add(before, -works);
        PERFORM tally_add(since, works);
    END IF;
    RETURN changed;
END
""",
    ),
}


def create_function(name: str) -> str:
    """Return the statement that creates a function of PostgreSQL."""
    head, body = POSTGRESQL_FUNCTIONS[name]
    return f"CREATE FUNCTION {head} AS $${body}$$"


POSTGRESQL_TRIGGERS: tuple[str, ...] = (
    """\
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
FOR EACH STATEMENT EXECUTE FUNCTION event_append_only()""",
    """\
CREATE TRIGGER tally_arrival AFTER INSERT OR DELETE OR UPDATE OF disposition, content_sha256 ON arrival
FOR EACH ROW EXECUTE FUNCTION tally_arrival()""",
    """\
CREATE TRIGGER tally_content AFTER UPDATE OF state ON content
FOR EACH ROW WHEN ((OLD.state = 'done') <> (NEW.state = 'done')) EXECUTE FUNCTION tally_content()""",
    """\
CREATE TRIGGER tally_result AFTER INSERT OR UPDATE OF outcome ON result
FOR EACH ROW EXECUTE FUNCTION tally_result()""",
    # Before, so that of several results of a content that one statement removes, each is seen to go.
    """\
CREATE TRIGGER tally_result_removed BEFORE DELETE ON result
FOR EACH ROW EXECUTE FUNCTION tally_result()""",
)
