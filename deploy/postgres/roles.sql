-- Four roles for one PostgreSQL database of xray-batch, each with no more than it needs:
--
--   xray_owner   owns tables and views; only migrations (`xray-batch db upgrade`) run as it
--   xray         the service and the commands: adds arrivals, answers and events, moves work through its states.
--                It cannot change or remove an event, remove a row, or alter a table
--   xray_reader  people and programs that read: the views `results` and `accounting`, and nothing else
--   xray_web     the worklist page (`xray-batch web`): reads what it shows, and adds events, that somebody was shown a
--                film.  It changes nothing: to have answers given again (`web_requeue_users`), let the page be `xray`
--
-- Run it as a superuser in the database, before its first migration and after every one (a new table has no grants):
--
--   psql --dbname xray --file deploy/postgres/roles.sql
--
-- It may be run again at any time.  The roles have no password: give them one with \password, or let the system user
-- `xray` in by its name over the local socket (`peer`, the default of Debian and Ubuntu).

\set ON_ERROR_STOP on
\set QUIET on

BEGIN;

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['xray_owner', 'xray', 'xray_reader', 'xray_web']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE xray_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE xray LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE xray_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE xray_web LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
-- A report that runs for hours would keep dead rows from being cleaned up.
ALTER ROLE xray_reader SET default_transaction_read_only = on;
ALTER ROLE xray_reader SET statement_timeout = '5min';
-- Nobody waits longer for a page.
ALTER ROLE xray_web SET statement_timeout = '30s';

-- Nobody else gets in, or makes anything here.
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO xray_owner, xray, xray_reader, xray_web;
GRANT USAGE ON SCHEMA public TO xray, xray_reader, xray_web;
-- `xray-batch db check` compares views by means of temporary ones.
GRANT TEMPORARY ON DATABASE :"DBNAME" TO xray_owner;
GRANT USAGE, CREATE ON SCHEMA public TO xray_owner;

-- From scratch each time, so that nothing which an older version of this file granted is left.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM xray, xray_reader, xray_web;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM xray, xray_reader, xray_web;

-- The service reads everything, and adds rows to every table but the one of the revision, and the tally: that is kept
-- by triggers, with the rights of the owner.
SELECT format('GRANT SELECT ON %I.%I TO xray', schemaname, name)
FROM (SELECT schemaname, tablename AS name FROM pg_tables UNION ALL SELECT schemaname, viewname FROM pg_views) AS found
WHERE schemaname = 'public'
\gexec

SELECT format('GRANT INSERT ON %I.%I TO xray', schemaname, tablename)
FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'tally')
\gexec

GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO xray;

-- It changes rows, but no event: an answer that `requeue` replaces stays in the trail.  It removes none.
SELECT format('GRANT UPDATE ON %I.%I TO xray', schemaname, tablename)
FROM pg_tables
WHERE schemaname = 'public' AND tablename NOT IN ('alembic_version', 'event', 'tally')
\gexec

SELECT format('GRANT SELECT ON %I.%I TO xray_reader', schemaname, viewname)
FROM pg_views
WHERE schemaname = 'public' AND viewname IN ('results', 'accounting')
\gexec

SELECT format('GRANT SELECT ON %I.%I TO xray_web', schemaname, name)
FROM (SELECT schemaname, tablename AS name FROM pg_tables UNION ALL SELECT schemaname, viewname FROM pg_views) AS found
WHERE schemaname = 'public' AND name IN (
    'results', 'accounting', 'result', 'arrival', 'instance', 'content', 'model', 'event', 'tally', 'alembic_version')
\gexec

-- The audit trail is append-only for everybody, by a trigger.
SELECT format('GRANT INSERT ON %I.%I TO xray_web', schemaname, tablename)
FROM pg_tables
WHERE schemaname = 'public' AND tablename = 'event'
\gexec

SELECT format('GRANT USAGE ON SEQUENCE %s TO xray_web', pg_get_serial_sequence('public.event', 'event_id'))
WHERE to_regclass('public.event') IS NOT NULL
\gexec

COMMIT;
