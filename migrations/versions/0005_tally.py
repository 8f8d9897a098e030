"""Keep a tally of where all arrivals are, and index what is looked for often.

Revision 0005, after 0004, 2026-11-27.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IS_PRUNING = "filed_at IS NOT NULL AND previous_path IS NOT NULL"

# From now on the triggers count; what the version before writes is counted too.
COUNT_ALL = """\
INSERT INTO tally (standing, arrivals)
SELECT 'results', results FROM accounting
UNION ALL SELECT 'rejected', rejected FROM accounting
UNION ALL SELECT 'duplicates', duplicates FROM accounting
UNION ALL SELECT 'pending', pending FROM accounting
UNION ALL SELECT 'lost', lost FROM accounting"""

SQLITE = (
    """\
CREATE TRIGGER tally_arrival_added AFTER INSERT ON arrival
BEGIN
  UPDATE tally SET arrivals = arrivals
      + 1
  WHERE standing = CASE NEW.disposition WHEN 'duplicate' THEN 'duplicates' ELSE (
      SELECT CASE WHEN state <> 'done' THEN 'pending'
             ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END
      FROM content WHERE content.content_sha256 = NEW.content_sha256) END;
END""",
    """\
CREATE TRIGGER tally_arrival_removed AFTER DELETE ON arrival
BEGIN
  UPDATE tally SET arrivals = arrivals
      - 1
  WHERE standing = CASE OLD.disposition WHEN 'duplicate' THEN 'duplicates' ELSE (
      SELECT CASE WHEN state <> 'done' THEN 'pending'
             ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END
      FROM content WHERE content.content_sha256 = OLD.content_sha256) END;
END""",
    """\
CREATE TRIGGER tally_arrival_changed AFTER UPDATE OF disposition, content_sha256 ON arrival
BEGIN
  UPDATE tally SET arrivals = arrivals
      - 1
  WHERE standing = CASE OLD.disposition WHEN 'duplicate' THEN 'duplicates' ELSE (
      SELECT CASE WHEN state <> 'done' THEN 'pending'
             ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END
      FROM content WHERE content.content_sha256 = OLD.content_sha256) END;
  UPDATE tally SET arrivals = arrivals
      + 1
  WHERE standing = CASE NEW.disposition WHEN 'duplicate' THEN 'duplicates' ELSE (
      SELECT CASE WHEN state <> 'done' THEN 'pending'
             ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END
      FROM content WHERE content.content_sha256 = NEW.content_sha256) END;
END""",
    """\
CREATE TRIGGER tally_content_changed AFTER UPDATE OF state ON content
WHEN (OLD.state = 'done') <> (NEW.state = 'done')
BEGIN
  UPDATE tally SET arrivals = arrivals
      - (SELECT count(*) FROM arrival WHERE content_sha256 = OLD.content_sha256 AND disposition = 'work')
  WHERE standing = CASE WHEN OLD.state <> 'done' THEN 'pending'
      ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END;
  UPDATE tally SET arrivals = arrivals
      + (SELECT count(*) FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work')
  WHERE standing = CASE WHEN NEW.state <> 'done' THEN 'pending'
      ELSE coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost') END;
END""",
    """\
CREATE TRIGGER tally_result_added AFTER INSERT ON result
BEGIN
  UPDATE tally SET arrivals = arrivals
      - (SELECT count(*) FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = NEW.content_sha256)
  WHERE standing = coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256 AND result_id <> NEW.result_id
        ORDER BY result_id DESC LIMIT 1), 'lost');
  UPDATE tally SET arrivals = arrivals
      + (SELECT count(*) FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = NEW.content_sha256)
  WHERE standing = coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost');
END""",
    """\
CREATE TRIGGER tally_result_removed AFTER DELETE ON result
BEGIN
  UPDATE tally SET arrivals = arrivals
      - (SELECT count(*) FROM arrival WHERE content_sha256 = OLD.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = OLD.content_sha256)
  WHERE standing = CASE WHEN EXISTS (
        SELECT 1 FROM result WHERE content_sha256 = OLD.content_sha256 AND result_id > OLD.result_id)
      THEN coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost')
      ELSE CASE OLD.outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END END;
  UPDATE tally SET arrivals = arrivals
      + (SELECT count(*) FROM arrival WHERE content_sha256 = OLD.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = OLD.content_sha256)
  WHERE standing = coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost');
END""",
    """\
CREATE TRIGGER tally_result_changed AFTER UPDATE OF outcome ON result
WHEN (OLD.outcome = 'not_analysed') <> (NEW.outcome = 'not_analysed')
BEGIN
  UPDATE tally SET arrivals = arrivals
      - (SELECT count(*) FROM arrival WHERE content_sha256 = OLD.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = OLD.content_sha256)
  WHERE standing = CASE WHEN EXISTS (
        SELECT 1 FROM result WHERE content_sha256 = OLD.content_sha256 AND result_id > OLD.result_id)
      THEN coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = OLD.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost')
      ELSE CASE OLD.outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END END;
  UPDATE tally SET arrivals = arrivals
      + (SELECT count(*) FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work')
      * (SELECT state = 'done' FROM content WHERE content_sha256 = NEW.content_sha256)
  WHERE standing = coalesce((SELECT CASE outcome WHEN 'not_analysed' THEN 'rejected' ELSE 'results' END FROM result
        WHERE result.content_sha256 = NEW.content_sha256
        ORDER BY result_id DESC LIMIT 1), 'lost');
END""",
)

POSTGRESQL = (
    """\
CREATE FUNCTION tally_add(to_standing text, number bigint) RETURNS void LANGUAGE plpgsql AS $$
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
$$""",
    """\
CREATE FUNCTION tally_answered(sha256 text, without_id bigint) RETURNS text LANGUAGE sql STABLE AS $$
SELECT CASE (array_agg(outcome::text ORDER BY result_id DESC))[1]
       WHEN 'not_analysed' THEN 'rejected' ELSE coalesce(min('results'), 'lost') END
FROM result WHERE content_sha256 = sha256 AND result_id IS DISTINCT FROM without_id
$$""",
    """\
CREATE FUNCTION tally_arrival() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
$$""",
    """\
CREATE FUNCTION tally_content() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    works bigint;
    answered text := tally_answered(NEW.content_sha256, NULL);
BEGIN
    SELECT count(*) INTO works FROM arrival WHERE content_sha256 = NEW.content_sha256 AND disposition = 'work';
    PERFORM tally_add(CASE OLD.state WHEN 'done' THEN answered ELSE 'pending' END, -works);
    PERFORM tally_add(CASE NEW.state WHEN 'done' THEN answered ELSE 'pending' END, works);
    RETURN NULL;
END
$$""",
    """\
CREATE FUNCTION tally_result() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
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
$$""",
    """\
CREATE TRIGGER tally_arrival AFTER INSERT OR DELETE OR UPDATE OF disposition, content_sha256 ON arrival
FOR EACH ROW EXECUTE FUNCTION tally_arrival()""",
    """\
CREATE TRIGGER tally_content AFTER UPDATE OF state ON content
FOR EACH ROW WHEN ((OLD.state = 'done') <> (NEW.state = 'done')) EXECUTE FUNCTION tally_content()""",
    """\
CREATE TRIGGER tally_result AFTER INSERT OR UPDATE OF outcome ON result
FOR EACH ROW EXECUTE FUNCTION tally_result()""",
    """\
CREATE TRIGGER tally_result_removed BEFORE DELETE ON result
FOR EACH ROW EXECUTE FUNCTION tally_result()""",
)


def upgrade() -> None:
    """Add the tally with what there is now, its triggers, and two indexes."""
    op.create_table(
        "tally",
        sa.Column("tally_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("standing", sa.String(length=10), nullable=False),
        sa.Column("arrivals", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "standing IN ('results', 'rejected', 'duplicates', 'pending', 'lost')", name=op.f("ck_tally_standing")
        ),
        sa.PrimaryKeyConstraint("tally_id", name=op.f("pk_tally")),
    )
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:
        # Writers wait from here until the end: 1.5 s for a million arrivals.  What they had begun is counted.
        op.execute("LOCK TABLE content, arrival, result IN SHARE ROW EXCLUSIVE MODE")
    op.create_index("ix_result_outcome", "result", ["outcome", "classified_at", "result_id"])
    op.create_index(
        "ix_arrival_pruning",
        "arrival",
        ["arrival_id"],
        sqlite_where=sa.text(IS_PRUNING),
        postgresql_where=sa.text(IS_PRUNING),
    )
    op.execute(COUNT_ALL)
    for statement in SQLITE if is_sqlite else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    """Refuse: a downgrade is a restored backup."""
    raise CommandError("there is no downgrade: restore a backup made before the upgrade")
