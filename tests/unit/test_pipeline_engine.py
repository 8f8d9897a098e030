"""The pipeline on the small bundle: when it loads its networks, and how many films it takes together."""

import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from xray_batch.bundle import Bundle
from xray_batch.errors import BundleError, DeviceMemoryError, ReasonCode
from xray_batch.pipeline import engine
from xray_batch.pipeline.engine import Failure, Job, Pipeline
from xray_batch.settings import Settings


@pytest.fixture
def films(tmp_path):
    """Write nine films, which differ."""
    ramp = Image.linear_gradient("L").resize((300, 300))
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        ramp.rotate(number, fillcolor=90).save(path)
    return paths


@pytest.fixture
def damaged_bundle(bundle_folder, tmp_path):
    """Give a bundle whose weights have changed."""
    folder = shutil.copytree(bundle_folder, tmp_path / "damaged")
    weights = folder / "resnet34.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    return folder


@pytest.fixture
def slow_film(tmp_path):
    """Write a film that takes long to decode."""
    path = tmp_path / "slow.png"
    Image.effect_noise((5000, 5000), 60).save(path)
    return path


@pytest.mark.parametrize("module", ["in_place", "engine", "pool"])
def test_decoding_begins_without_torch(module):
    """Films can be handed to decode workers before torch is imported."""
    program = f"import sys, xray_batch.pipeline.{module}; print({{'torch', 'torchvision'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_networks_are_loaded_when_there_is_a_film(damaged_bundle, films, tmp_path):
    """Weights that are not those of the manifest are found out before the first answer; without a film nobody looks."""
    settings = Settings(home=tmp_path, batch_size=4, decode_workers=1, device="cpu")
    jobs = iter([Job(path=path, context=None) for path in films[:3]])
    with Pipeline(Bundle(damaged_bundle), settings) as pipeline:
        assert not any(pipeline.run([]))
        with pytest.raises(BundleError, match=r"has SHA-256 .*, the manifest says"):
            list(pipeline.run(jobs))
        assert next(jobs, None) is None  # the decode worker has had them meanwhile
        with pytest.raises(BundleError, match="has SHA-256"):
            pipeline.load()


@pytest.mark.parametrize(("tick_seconds", "most"), [(0.0, 1), (60.0, 3)], ids=["slowly", "at once"])
def test_networks_are_loaded_while_jobs_come(tick_seconds, most, damaged_bundle, films, tmp_path, monkeypatch):
    """Where jobs come slowly, as from a pipe, nobody waits until there are as many as may be inside."""
    monkeypatch.setattr(engine, "TICK_SECONDS", tick_seconds)
    asked_for = []

    def jobs():
        for path in films[:3]:
            asked_for.append(path)
            yield Job(path=path, context=None)

    settings = Settings(home=tmp_path, batch_size=4, decode_workers=1, device="cpu")
    with Pipeline(Bundle(damaged_bundle), settings) as pipeline, pytest.raises(BundleError):
        list(pipeline.run(jobs()))
    assert len(asked_for) == most


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("cuda", 4)])
def test_films_together(device, most, bundle_folder, films, tmp_path):
    """On a CPU whose passes take too long films go one by one; on a GPU one takes as long as all, and they do not."""
    settings = Settings(home=tmp_path, batch_size=4, decode_workers=1, device="cpu")
    with Pipeline(Bundle(bundle_folder), settings) as pipeline:
        pipeline.device = torch.device(device)  # of which there is none here: the networks stay where they are
        for path in films[:1]:
            list(pipeline.run([Job(path=path, context=None)], wait_seconds=1e-9))
        assert pipeline._together == most


@pytest.fixture
def pipeline(bundle_folder, tmp_path):
    """Give a pipeline with one decode worker, which takes longer to start than jobs to be handed over."""
    settings = Settings(home=tmp_path, batch_size=4, decode_workers=1, device="cpu")
    with Pipeline(Bundle(bundle_folder), settings) as pipeline:
        pipeline.load()
        yield pipeline


def groups_of(pipeline, jobs, wait_seconds):
    """Run jobs; return their names as they came together."""
    groups = pipeline.run(jobs, wait_seconds=wait_seconds)
    return [[answered.job.path.stem for answered in group] for group in groups if group]


def test_films_wait_for_each_other(films, pipeline):
    """A film that is ready waits for those that are being decoded: they are classified and recorded together."""
    assert groups_of(pipeline, [Job(path=path, context=None) for path in films], 60) == [
        ["0", "1", "2", "3"],
        ["4", "5", "6", "7"],
        ["8"],
    ]


def test_films_wait_only_while_every_worker_is_busy(bundle_folder, films, slow_film, tmp_path):
    """Where a core has nothing to decode, it may as well classify."""
    settings = Settings(home=tmp_path, batch_size=4, decode_workers=2, device="cpu")
    with Pipeline(Bundle(bundle_folder), settings) as pipeline:
        pipeline.load()
        jobs = [Job(path=path, context=None) for path in (*films[:2], slow_film)]
        assert [sorted(group) for group in groups_of(pipeline, jobs, 60)] == [["0", "1"], ["slow"]]


def test_an_urgent_film_goes_first_and_waits_for_none(films, slow_film, pipeline):
    """It is decoded before what was handed over earlier, and classified without what is being decoded."""
    jobs = [Job(path=slow_film, context=None), Job(path=films[0], context=None, is_urgent=True)]
    assert groups_of(pipeline, jobs, 60) == [["0"], ["slow"]]


def test_the_size_of_a_pass_is_recorded(films, pipeline, monkeypatch):
    """What is recorded is how many films were computed together, and not how many were to be."""
    whole = pipeline._ensemble._pass

    def short_of_memory(inputs):
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(inputs)

    monkeypatch.setattr(pipeline._ensemble, "_pass", short_of_memory)
    groups = pipeline.run([Job(path=path, context=None) for path in films[:5]], wait_seconds=60)
    sizes = [answered.result.computation.batch_images for group in groups for answered in group]
    assert sizes == [2, 2, 2, 2, 1]


def test_jobs_are_asked_for_as_they_are_needed(films, pipeline):
    """However many there are, two passes and a file for the worker are inside."""
    asked_for = []

    def jobs():
        for path in films * 5:
            asked_for.append(path)
            yield Job(path=path, context=None)

    groups = pipeline.run(jobs())
    assert any(groups)
    assert len(asked_for) <= 2 * 4 + 1
    groups.close()


def test_what_is_given_up_does_not_turn_up_later(films, pipeline):
    """Who closes a run has its answers no more, in the next run least of all."""
    groups = pipeline.run([Job(path=path, context=None) for path in films], wait_seconds=60)
    assert any(groups)
    groups.close()
    assert groups_of(pipeline, [Job(path=films[8], context=None)], 60) == [["8"]]


def test_what_no_network_has_seen(films, pipeline):
    """A file that is none of ours has its answer, and the time that it took; one that cannot be read is tried again."""
    films[0].write_text("This is no radiograph.")
    films[1].unlink()
    groups = pipeline.run([Job(path=path, context=None) for path in films[:2]])
    refused, unread = (answered.result for group in groups for answered in group)
    assert (refused.reason_code, refused.processing_seconds > 0) == (ReasonCode.UNREADABLE_FILE, True)
    assert unread == Failure(error="TransientError", transient=True)


@pytest.mark.parametrize(
    ("error", "failures"),
    [
        (FloatingPointError, {"0": Failure(error="FloatingPointError", transient=False)}),
        (DeviceMemoryError, dict.fromkeys("0123", Failure(error="DeviceMemoryError", transient=True))),
    ],
)
def test_errors_of_the_networks(error, failures, films, pipeline, monkeypatch):
    """A film without finite probabilities takes no other with it; a device without memory is no film's fault."""
    Image.linear_gradient("L").resize((300, 300)).point(lambda value: value // 8).save(films[0])
    whole = pipeline._ensemble.answer

    def answer(inputs):
        if any(prepared.input_mean < 0.1 for prepared in inputs):
            raise error
        return whole(inputs)

    monkeypatch.setattr(pipeline._ensemble, "answer", answer)
    groups = pipeline.run([Job(path=path, context=None) for path in films[:4]], wait_seconds=60)
    results = {answered.job.path.stem: answered.result for group in groups for answered in group}
    assert len(results) == 4
    assert {name: result for name, result in results.items() if isinstance(result, Failure)} == failures
