"""`process --ray`: a real cluster of two nodes, with its token, and a real PostgreSQL; nodes are killed meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from engines import on_postgresql
from installed_command import (
    Finished,
    WatchedFolder,
    clean_environment,
    files_below,
    make_bad_files,
    make_films,
    run_command,
)
from ray_cluster import RayCluster, running_ray

from xray_batch.records import Accounting

pytestmark = [pytest.mark.long, on_postgresql]

FILMS = 96

#: Of a row: what two runs over the same files share.
OWN = ("result_id", "received_at", "classified_at", "processing_seconds")


def order(service: WatchedFolder, cluster: RayCluster, *arguments: str | Path) -> list[str]:
    """Return the command line of a run on the cluster, and let the settings be those of the service."""
    service.settings |= cluster.variables | {
        "XRAY_BATCH_DATABASE_URL": service.database_url,
    }
    home = str(service.home)
    return ["process", "--home", home, "--format", "json", "--ray", cluster.address, *map(str, arguments)]


def begin(service: WatchedFolder, command: list[str]) -> subprocess.Popen[str]:
    """Start the command; its answers go to a file, so that nobody need read them meanwhile."""
    with (service.home.parent / "out").open("w") as out, (service.home.parent / "err").open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "xray_batch", *command],
            stdout=out,
            stderr=err,
            text=True,
            env=clean_environment(**service.settings),
        )


def end(service: WatchedFolder, process: subprocess.Popen[str]) -> Finished:
    """Wait for the end of the command."""
    code = process.wait(120)
    folder = service.home.parent
    return Finished(code, (folder / "out").read_text(), (folder / "err").read_text())


def wait_for_answers(service: WatchedFolder, process: subprocess.Popen[str], count: int) -> None:
    """Wait until so many files are recorded."""
    err = service.home.parent / "err"
    (service.home.parent / "log").touch()
    service.wait_until(lambda: service.accounting().arrivals >= count or process.poll() is not None)
    assert process.poll() is None, err.read_text()


def archive_of(folder: Path) -> dict[str, str | None]:
    """Make films, two of them with the same bytes, and files that are refused; return the reason code of each."""
    films = make_films(folder, FILMS)
    copy = folder / "copy-of-film-007.png"
    copy.write_bytes(films[7].read_bytes())
    bad = make_bad_files(folder / "bad")
    return {str(path): None for path in [*films, copy]} | {str(path): reason for path, reason in bad.items()}


def test_a_node_is_killed(service, tmp_path):
    """Nothing is lost or doubled when a node dies; rows, summary and exit code are those of one machine."""
    expected = archive_of(tmp_path / "archive")
    with running_ray("head", "second") as cluster:
        command = order(service, cluster, tmp_path / "archive")
        process = begin(service, command)
        wait_for_answers(service, process, 30)
        second = cluster.nodes["second"]
        service.wait_until(lambda: "xray_batch.pipeline.worker" in second.command_lines() or process.poll() is not None)
        assert process.poll() is None, (service.home.parent / "err").read_text()
        second.kill()
        done = end(service, process)
        assert done.code == 0, done.err
        assert "a worker on node second was lost" in done.err
        assert len(done.rows) == len(expected)
        refused = sum(reason is not None for reason in expected.values())
        account = Accounting(
            arrivals=FILMS + 1 + refused, results=FILMS, rejected=refused, duplicates=1, pending=0, lost=0
        )
        assert service.accounting() == account

        # Nobody's name, and no secret, is in what Ray writes down.
        logs = [path.read_bytes() for path in files_below(cluster.folder)]
        assert len(logs) > 10
        assert not [log for log in logs if b"film-0" in log or service.database_url.encode() in log]

        # Run again, all is known, and nothing is computed.
        before = service.results()
        again = end(service, begin(service, command))
        assert again.code == 0, again.err
        assert service.results() == before
        assert service.accounting().duplicates == 1 + len(expected)

    # One machine gives the same rows, bit for bit.
    alone = {name: value for name, value in service.settings.items() if name != "XRAY_BATCH_DATABASE_URL"}
    here = run_command("process", "--home", tmp_path / "here", "--format", "json", tmp_path / "archive", **alone)
    assert here.code == 0, here.err
    assert comparable(before) == comparable(unique(here.rows))


def unique(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return each row once: two files of the same bytes share one."""
    return list({row["result_id"]: row for row in rows}.values())


def comparable(rows: list[dict[str, object]]) -> dict[object, str]:
    """Return rows by their content, without what is of one run alone.

    Which of two copies came first is chance, and so is which of two files under one SOP Instance UID came second.
    """
    kept = [{name: value for name, value in row.items() if name not in (*OWN, "source_name")} for row in rows]
    for row in kept:
        row["warnings"] = [code for code in str(row["warnings"]).split(",") if code not in ("", "uid_conflict")]
    return {row["content_sha256"]: json.dumps(row, default=str, sort_keys=True) for row in kept}


def test_the_drivers_own_node_is_killed(service, tmp_path):
    """The command ends with exit code 1; on the next cluster it does what is left."""
    films = make_films(tmp_path / "archive", FILMS)
    with running_ray("head") as cluster:
        process = begin(service, order(service, cluster, tmp_path / "archive"))
        wait_for_answers(service, process, 30)
        cluster.nodes["head"].kill()
        done = end(service, process)
        assert done.code == 1, done.err
    assert service.accounting().balances
    assert 30 <= service.accounting().results < FILMS
    with running_ray("head") as cluster:
        (tmp_path / "list").write_text("".join(f"{film}\n" for film in films))
        again = end(service, begin(service, order(service, cluster, "--files-from", tmp_path / "list")))
        assert again.code == 0, again.err
    account = service.accounting()
    assert (account.results, account.rejected, account.pending, account.lost) == (FILMS, 0, 0, 0)
    assert account.arrivals == account.results + account.duplicates
    assert len(service.results()) == len({row["content_sha256"] for row in service.results()}) == FILMS
