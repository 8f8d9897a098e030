"""Which settings of an installation a benchmark does not follow."""

from typer.testing import CliRunner

from xray_batch.cli import app
from xray_batch.errors import BenchmarkError


def test_the_benchmark_decodes_exactly(tmp_path, monkeypatch):
    """What is compared does the same work: the setting `decode` does not make the pipeline faster than the others."""
    seen = []

    def stop(bundle, settings, *others):
        seen.append(settings.decode)
        raise BenchmarkError("enough")

    monkeypatch.setenv("XRAY_BATCH_DECODE", "fast")
    monkeypatch.setattr("xray_batch.bench.run.run_benchmark", stop)
    CliRunner().invoke(app, ["bench", "--home", str(tmp_path)])
    assert seen == ["exact"]
