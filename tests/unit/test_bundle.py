"""Model bundles: a missing fact or a changed byte is an error, and no pickle is ever loaded."""

import ast
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from bundle_factory import MODEL_CARD, copy_bundle, make_manifest, read_facts, write_facts
from input_specs import make_spec
from typer.testing import CliRunner

import xray_batch
from xray_batch import bundle_folders as bundle_folders_module
from xray_batch.bundle import (
    GATE_NAME,
    HASHES_NAME,
    PACKAGED_BUNDLES,
    Bundle,
    HashFacts,
    Manifest,
    bundle_folders,
    find_bundle,
    member_files,
    save_gate,
    save_hashes,
    save_weights,
    write_manifest,
)
from xray_batch.bundle.files import read_classes
from xray_batch.cli import app
from xray_batch.decode import RENDERING_VERSION
from xray_batch.drift import least_results
from xray_batch.errors import BundleError, ConfigurationError
from xray_batch.gate import PictureKind
from xray_batch.records import Finding
from xray_batch.resnet import ResNet


@pytest.fixture
def folder(bundle_folder, tmp_path):
    """Copy the small bundle; its facts can be changed, its weights are shared."""
    return copy_bundle(bundle_folder, tmp_path / "bundle")


def places_of_facts(facts, place=()):
    """List where every fact that the manifest's schema names is, as the keys to get there."""
    found = []
    for key, value in facts.items():
        found.append((*place, key))
        if isinstance(value, dict) and key not in {"images", "held_out_images", "recipes", "libraries"}:
            found += places_of_facts(value, (*place, key))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found += places_of_facts(value[0], (*place, key, 0))
    return found


CLASSES = tuple(Finding)
FACTS = make_manifest().model_dump(mode="json")
YOUNGER = [("drift_reference",), ("training", "balanced_under")]
PLACES = [place for place in places_of_facts(FACTS) if place not in YOUNGER]

#: Every fact that is a number with a fraction.
NUMBERS = [
    *(("input", name) for name in ("mean", "std")),
    *((name,) for name in ("temperature", "log_odds_shift", "threshold_low", "threshold_high", "disagreement_limit")),
    *(("metrics", 0, name) for name in ("value", "low", "high")),
    ("operating_points", "balanced", "threshold"),
    ("operating_points", "balanced", "sensitivity", "low"),
]


def at(facts, place):
    """Return the innermost object that holds the fact at `place`."""
    for key in place[:-1]:
        facts = facts[key]
    return facts


def name_of(place):
    """Return the name of a fact as messages have it."""
    return ".".join(str(key) for key in place)


def test_bundle_is_read(folder):
    """A complete bundle gives its facts, its identity and its networks."""
    bundle = Bundle(folder)
    content = (folder / "manifest.json").read_bytes()
    assert bundle.manifest.model_id == "test-cxr-1.2.3"
    assert bundle.manifest_text == content.decode()
    assert bundle.sha256 == hashlib.sha256(content).hexdigest()
    assert bundle.manifest.classes == tuple(Finding)
    assert bundle.manifest.input_spec == make_spec(32, 32, mean=0.5, std=0.25, rendering_version=RENDERING_VERSION)


def test_networks_are_ready(folder):
    """The members come in the manifest's order, in evaluation mode, float32, without gradients."""
    networks = Bundle(folder).load_networks()
    assert [hasattr(network.layer1[0], "conv3") for network in networks] == [False, True]
    for network in networks:
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_float16_round_trip(tmp_path):
    """Weights are stored in float16, nothing else of them is lost; batch counters stay integers."""
    network = ResNet("resnet34", 4)
    network.bn1.num_batches_tracked += 70_000
    sha256 = save_weights(network, CLASSES, tmp_path / "weights.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert sha256 == hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    assert stored.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        expected = tensor.half() if tensor.is_floating_point() else tensor
        assert stored[name].dtype == expected.dtype
        assert torch.equal(stored[name], expected)
    assert stored["bn1.num_batches_tracked"] == 70_000
    assert read_classes((tmp_path / "weights.safetensors").read_bytes()) == CLASSES


def test_manifest_round_trip(tmp_path):
    """What is written is read back, fact by fact."""
    manifest = make_manifest(intended_use="Prüfung, 日本")
    write_manifest(tmp_path, manifest, MODEL_CARD)
    for name in [*member_files(["resnet34", "resnet50"]), GATE_NAME]:
        (tmp_path / name).touch()
    assert Bundle(tmp_path).manifest == manifest
    assert (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8") == MODEL_CARD


def test_manifest_is_replaced_in_one_step(tmp_path):
    """Whoever reads a manifest while another takes its place has the whole of one, and nothing is left over."""
    write_manifest(tmp_path, make_manifest(version="1.0.0"), MODEL_CARD)
    with (tmp_path / "manifest.json").open(encoding="utf-8") as old:
        write_manifest(tmp_path, make_manifest(version="1.1.0"), MODEL_CARD)
        assert json.load(old)["version"] == "1.0.0"
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["version"] == "1.1.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MODEL_CARD.md", "manifest.json"]


@pytest.mark.parametrize("place", PLACES, ids=name_of)
def test_missing_fact(place, tmp_path):
    """Each fact that is missing is refused by its name: nothing falls back to a constant."""
    facts = json.loads(json.dumps(FACTS))
    del at(facts, place)[place[-1]]
    write_facts(tmp_path, facts)
    with pytest.raises(BundleError, match=rf"manifest\.json: {name_of(place)}: Field required"):
        Bundle(tmp_path)


def test_no_changes_of_the_images():
    """The balanced threshold of a bundle that names no changes was chosen on images as they are."""
    facts = FACTS | {"training": {name: fact for name, fact in FACTS["training"].items() if name != "balanced_under"}}
    assert Manifest.model_validate(facts).training.balanced_under == ()


@pytest.mark.parametrize("change", [{}, {"drift_reference": None}])
def test_no_drift_reference(change, tmp_path):
    """A bundle of before it was kept has none, and says so when it is written again."""
    facts = {name: fact for name, fact in FACTS.items() if name != "drift_reference"} | change
    manifest = Manifest.model_validate(facts)
    assert manifest.drift_reference is None
    assert manifest.model_dump(mode="json")["drift_reference"] is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("edges", lambda bins: bins["edges"].reverse(), "expected them in order"),
        ("edges", lambda bins: bins["edges"].pop(), "at least 9 items"),
        ("shares", lambda bins: bins["shares"].append(0.0), "at most 10 items"),
        ("shares", lambda bins: bins.update(shares=[0.2, *bins["shares"][1:]]), "that sum to 1"),
        ("shares", lambda bins: bins.update(shares=[-0.1, 0.3, *bins["shares"][2:]]), "numbers from 0"),
    ],
)
def test_bins_that_are_none(name, change, message, tmp_path):
    """Nine edges in order and ten shares that sum to 1 are bins; others are refused by name."""
    facts = json.loads(json.dumps(FACTS))
    change(facts["drift_reference"]["input_mean"])
    write_facts(tmp_path, facts)
    with pytest.raises(BundleError, match=rf"drift_reference\.input_mean.*{name}.*{message}|{name}.*{message}"):
        Bundle(tmp_path)


def test_drift_reference():
    """The reference is what the store and the index are given: each number's bins, with the count of films."""
    reference = make_manifest().drift_reference.reference
    assert reference.input_std.n == 1000
    assert reference.p_pneumonia.edges[4] == 0.5
    assert sum(reference.input_mean.shares) == pytest.approx(1.0)


def test_the_packaged_bundle_has_a_drift_reference():
    """Drift can be told from the start: the reference is the held-out films, enough of them, that thresholds are of."""
    manifest = Bundle(PACKAGED_BUNDLES / "default").manifest
    counts, source = manifest.training.held_out_images, manifest.training.reference
    facts = manifest.drift_reference
    assert facts.n == sum(count for name, count in counts.items() if name.startswith(f"{source}: "))
    assert least_results(facts.n) is not None
    assert facts.data.endswith(f", {source}")


CALIBRATION = {
    "derived_from": "test-cxr-1.2.2",
    "derived_from_sha256": "0" * 64,
    "calibrated_at": "2026-02-01T12:00:00Z",
    "name": "labels.csv",
    "sha256": "1" * 64,
    "images": {"site: normal": 60, "site: pneumonia": 50},
    "patients": 90,
    "left_out": {"lateral_view": 2},
}


@pytest.mark.parametrize("name", CALIBRATION)
def test_missing_fact_of_a_calibration(name, tmp_path):
    """A bundle that was calibrated anew must say all of it."""
    calibration = {fact: value for fact, value in CALIBRATION.items() if fact != name}
    write_facts(tmp_path, FACTS | {"calibration": calibration})
    with pytest.raises(BundleError, match=rf"manifest\.json: calibration\.{name}: Field required"):
        Bundle(tmp_path)


@pytest.mark.parametrize("place", [("speed",), ("input", "crop"), ("members", 0, "weight"), ("metrics", 1, "unit")])
def test_unknown_fact(place, tmp_path):
    """A fact that this version does not know is refused by its name: it may be one that matters."""
    facts = json.loads(json.dumps(FACTS))
    at(facts, place)[place[-1]] = 1
    write_facts(tmp_path, facts)
    with pytest.raises(BundleError, match=rf"manifest\.json: {name_of(place)}: Extra inputs are not permitted"):
        Bundle(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", NUMBERS, ids=name_of)
def test_number_that_is_none(place, number, tmp_path):
    """NaN and infinity are no facts."""
    facts = json.loads(json.dumps(FACTS))
    at(facts, place)[place[-1]] = number
    write_facts(tmp_path, facts)
    with pytest.raises(BundleError, match=rf"manifest\.json: {name_of(place)}: "):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("input", "channels"), 3),
        (("input", "std"), 0.0),
        (("input", "rows"), 0),
        (("input", "stretch"), [99.5, 0.5]),
        (("temperature",), 0.0),
        (("threshold_high",), 1.5),
        (("disagreement_limit",), 1.5),
        (("intended_ages",), {"youngest": 6, "oldest": 5}),
        (("gate", "file"), "../elsewhere.safetensors"),
        (("members",), []),
        (("members", 0, "architecture"), "resnet18"),
        (("members", 0, "file"), "../elsewhere.safetensors"),
        (("members", 0, "file"), "resnet34.pth"),
        (("version",), "1.0"),
        (("classes", 0), "cancer"),
    ],
    ids=lambda part: name_of(part) if isinstance(part, tuple) else None,
)
def test_impossible_fact(place, value, tmp_path):
    """A fact that cannot be is refused by its name."""
    facts = json.loads(json.dumps(FACTS))
    at(facts, place)[place[-1]] = value
    write_facts(tmp_path, facts)
    with pytest.raises(BundleError, match=rf"manifest\.json: {name_of(place)}: "):
        Bundle(tmp_path)


@pytest.mark.parametrize(
    "classes", [[], ["normal"], ["normal", "normal", "bacterial_pneumonia", "viral_pneumonia"], [*Finding, "normal"]]
)
def test_wrong_class_set(classes, tmp_path):
    """Classes other than the findings, each once, are refused with both sets named."""
    write_facts(tmp_path, FACTS | {"classes": classes})
    with pytest.raises(BundleError, match=r"classes are .*, expected normal, bacterial_pneumonia, .* in any order"):
        Bundle(tmp_path)


def replace_weights(folder, **metadata):
    """Write the weights of the first member anew with other metadata, and its new hash into the manifest."""
    path = folder / "resnet34.safetensors"
    tensors = safetensors.torch.load_file(path)
    path.unlink()  # the other name of the file stays as it is
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    facts = read_facts(folder)
    facts["members"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return facts


def test_class_order_is_the_bundles(folder):
    """The classes may be in any order, if manifest and weights agree on it."""
    classes = tuple(reversed(Finding))
    facts = replace_weights(folder, classes=",".join(classes))
    facts["members"] = facts["members"][:1]
    write_facts(folder, facts | {"classes": classes})
    bundle = Bundle(folder)
    assert bundle.manifest.classes == classes
    assert len(bundle.load_networks()) == 1


def test_other_class_order_than_the_weights(folder):
    """A manifest that orders the classes otherwise than the weights is refused, with both orders named."""
    write_facts(folder, read_facts(folder) | {"classes": tuple(reversed(Finding))})
    expected = r"resnet34\.safetensors was trained for normal, bacterial.*, the manifest says covid19_pneumonia, "
    with pytest.raises(BundleError, match=expected):
        Bundle(folder).load_networks()


def test_weights_without_classes(folder):
    """Weights that do not say what their outputs stand for are refused: the manifest alone could be wrong."""
    write_facts(folder, replace_weights(folder))
    with pytest.raises(BundleError, match=r"resnet34\.safetensors was trained for classes that it does not name, the"):
        Bundle(folder).load_networks()


def test_thresholds_out_of_order(tmp_path):
    """A low threshold above the high one is refused."""
    write_facts(tmp_path, FACTS | {"threshold_low": 0.75, "threshold_high": 0.5})
    with pytest.raises(BundleError, match=r"threshold_low 0\.75 is above threshold_high 0\.5"):
        Bundle(tmp_path)


def test_one_architecture_twice(tmp_path):
    """Two members of one architecture are refused: an answer tells its members apart by it."""
    write_facts(tmp_path, FACTS | {"members": [FACTS["members"][0]] * 2})
    with pytest.raises(BundleError, match="members are resnet34, resnet34, expected each architecture once"):
        Bundle(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_manifest_that_is_none(content, tmp_path):
    """A file that is no JSON object is refused."""
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: the whole: "):
        Bundle(tmp_path)


def test_no_manifest(tmp_path):
    """A folder without a manifest is no bundle; an operator must act."""
    with pytest.raises(BundleError, match=r"is not a model bundle: manifest\.json cannot be read \(No such file") as no:
        Bundle(tmp_path)
    assert isinstance(no.value, ConfigurationError)


def test_a_manifest_that_is_a_pipe(tmp_path):
    """It is refused, not waited for."""
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read \(it is no regular file\)"):
        Bundle(tmp_path)


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "resnet34.safetensors", "resnet50.safetensors"])
def test_missing_file(name, folder):
    """A bundle without its model card or the weights of a member is incomplete."""
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"is incomplete: {name} is missing"):
        Bundle(folder)


def test_a_model_card_that_is_no_text(folder):
    """A card in another encoding than UTF-8 is shown as far as it can be read; nothing vouches for its bytes."""
    (folder / "MODEL_CARD.md").write_bytes("# Für Kinder\n".encode("latin-1"))
    done = CliRunner().invoke(app, ["bundle", "show", str(folder)])
    assert done.exit_code == 0, done.exception
    assert "# F\N{REPLACEMENT CHARACTER}r Kinder\n" in done.stdout


def test_a_model_card_that_speaks_to_the_terminal(folder):
    """What a terminal would obey is shown, and the text stays as it is."""
    (folder / "MODEL_CARD.md").write_text("# A\n\n\x1b]0;title\x07 b \x9b2J\u202e\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["bundle", "show", str(folder)])
    assert done.stdout.startswith("# A\n\n\\x1b]0;title\\x07 b \\x9b2J\\u202e\n\nmanifest SHA-256: ")


def test_changed_byte(folder):
    """One changed bit in a member's weights is refused, with both hashes named."""
    path = folder / "resnet34.safetensors"
    content = bytearray(path.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    path.unlink()  # the other name of the file stays as it is
    path.write_bytes(content)
    actual = hashlib.sha256(content).hexdigest()
    with pytest.raises(BundleError, match=rf"resnet34\.safetensors has SHA-256 {actual}, the manifest says {expected}"):
        Bundle(folder).load_networks()


def test_weights_of_the_other_architecture(folder):
    """Weights that are unchanged but of another architecture are refused."""
    facts = read_facts(folder)
    first, second = facts["members"]
    first["file"], second["file"] = second["file"], first["file"]
    first["sha256"], second["sha256"] = second["sha256"], first["sha256"]
    write_facts(folder, facts)
    with pytest.raises(BundleError, match=r"resnet50\.safetensors does not hold the weights of a resnet34"):
        Bundle(folder).load_networks()


def test_weights_that_are_a_pickle(folder):
    """A pickle under the name of weights is refused, though its hash is the manifest's; it is not loaded."""
    path = folder / "resnet34.safetensors"
    path.unlink()
    torch.save(ResNet("resnet34", 4).state_dict(), path)
    facts = read_facts(folder)
    facts["members"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_facts(folder, facts)
    with pytest.raises(BundleError, match=r"resnet34\.safetensors does not hold the weights of a resnet34"):
        Bundle(folder).load_networks()


def test_find_by_path(folder, tmp_path, monkeypatch):
    """A name with a slash is a path."""
    monkeypatch.chdir(tmp_path)
    assert find_bundle(str(folder), tmp_path / "none").folder == folder
    assert find_bundle("./bundle", tmp_path / "none").folder == Path("bundle")


def test_find_installed_before_packaged(folder, tmp_path, monkeypatch):
    """A name is that of an installed bundle, else of a packaged one."""
    installed, packaged = tmp_path / "installed", tmp_path / "packaged"
    copy_bundle(folder, installed / "first")
    copy_bundle(folder, packaged / "first")
    copy_bundle(folder, packaged / "second")
    monkeypatch.setattr(bundle_folders_module, "PACKAGED_BUNDLES", packaged)
    assert find_bundle("first", installed).folder == installed / "first"
    assert find_bundle("second", installed).folder == packaged / "second"
    assert bundle_folders(installed) == [installed / "first", packaged / "first", packaged / "second"]


@pytest.mark.parametrize(("names", "listed"), [(["first", "second"], "first, second"), ([], "none")])
def test_find_unknown(names, listed, tmp_path, monkeypatch):
    """An unknown name is refused with the names that there are."""
    monkeypatch.setattr(bundle_folders_module, "PACKAGED_BUNDLES", tmp_path / "packaged")
    for name in names:
        (tmp_path / "installed" / name).mkdir(parents=True)
    with pytest.raises(BundleError, match=f"there is no model bundle 'third'; there are: {listed}$"):
        find_bundle("third", tmp_path / "installed")


def test_no_installed_folder(tmp_path):
    """A home without a folder of bundles has the packaged ones."""
    expected = [PACKAGED_BUNDLES / "default"]
    assert bundle_folders(tmp_path / "none") == expected


def test_random_weights_matter(bundle_folder):
    """The bundle of these tests is a fair double: its members give different answers to different images."""
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 32, 32), dtype=np.float32))
    with torch.inference_mode():
        first, second = (network(images) for network in Bundle(bundle_folder).load_networks())
    assert (first[0] - first[1]).abs().max() > 1e-3
    assert (first - second).abs().max() > 1e-3


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

#: Functions that unpickle, beside the method `recv` of a connection.
FORBIDDEN_CALLS = {"torch.load", "torch.jit.load"}


@pytest.mark.parametrize(
    "path", sorted(Path(xray_batch.__file__).parent.rglob("*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_no_pickle_is_ever_loaded(path):
    """No file of the package imports a module that unpickles, nor calls a function that does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES
            assert node.module != "torch" or "load" not in {alias.name for alias in node.names}
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            assert function not in FORBIDDEN_CALLS
            assert not function.endswith("onnection.recv")
            unsafe = {keyword.arg: keyword.value for keyword in node.keywords}
            assert "allow_pickle" not in unsafe
            assert not function.endswith("load_state_dict_from_url") or (ast.unparse(unsafe["weights_only"]) == "True")


def test_copies_leave_the_original(bundle_folder, tmp_path):
    """A copy's facts can be changed without changing the bundle of the other tests."""
    before = (bundle_folder / "manifest.json").read_bytes()
    copy = copy_bundle(bundle_folder, tmp_path / "copy")
    write_facts(copy, {})
    assert (bundle_folder / "manifest.json").read_bytes() == before
    shutil.rmtree(copy)
    Bundle(bundle_folder)


def test_gate_is_loaded(folder):
    """The gate's layer and limits are those of the file and the manifest."""
    bundle = Bundle(folder)
    gate = bundle.load_gate()
    stored = safetensors.torch.load_file(folder / GATE_NAME)
    features = np.ones((1, len(stored["weight"])), np.float32)
    (judgement,) = gate.judge(features, [0.0])
    logits = stored["weight"].float().sum(0) + stored["bias"]
    film = list(PictureKind).index(PictureKind.FILM)
    others = torch.cat([logits[:film], logits[film + 1 :]])
    assert judgement.atypicality == pytest.approx(float(torch.logsumexp(others, 0) - logits[film]), abs=1e-4)
    assert gate.limits.flag_above == bundle.manifest.gate.flag_above


def replace_gate(folder, content):
    """Give a bundle another gate file; the one it has is shared with others."""
    (folder / GATE_NAME).unlink()
    (folder / GATE_NAME).write_bytes(content)


def test_changed_gate(folder):
    """A changed byte in the gate's file is refused by its name."""
    replace_gate(folder, (folder / GATE_NAME).read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"gate\.safetensors has SHA-256"):
        Bundle(folder).load_gate()


@pytest.mark.parametrize("shape", [(5, 3), (15,), (3840, 8)])
def test_gate_of_another_shape(shape, folder):
    """A layer that does not fit the kinds, or the features of the member, is refused."""
    replace_gate(folder, b"")
    facts = read_facts(folder)
    facts["gate"]["sha256"] = save_gate(np.zeros(shape), np.zeros(3), folder / GATE_NAME)
    write_facts(folder, facts)
    with pytest.raises(BundleError, match=r"expected \(960, 8\) and \(8,\): 960 features \(gate.grid is 1\), 8 kinds"):
        Bundle(folder).load_gate()


def test_gate_of_no_member(tmp_path):
    """A gate on the features of a network that is no member is refused."""
    facts = make_manifest().model_dump(mode="json")
    facts["gate"]["architecture"] = "resnet18"
    with pytest.raises(ValueError, match="not among the members"):
        Manifest.model_validate(facts)


def test_hashes_of_training_images(tmp_path):
    """Hashes come back as they were; a bundle without them has none; damaged ones are refused."""
    content = np.array([1, 2**64 - 1], dtype=np.uint64)
    picture = np.arange(64, dtype=np.uint8).reshape(2, 32)
    hashes = HashFacts(file=HASHES_NAME, sha256=save_hashes(content, picture, tmp_path / HASHES_NAME))
    training = make_manifest().training
    write_manifest(tmp_path, make_manifest(training=training.model_copy(update={"hashes": hashes})), MODEL_CARD)
    for name in [*member_files(["resnet34", "resnet50"]), GATE_NAME]:
        (tmp_path / name).touch()
    bundle = Bundle(tmp_path)
    assert HASHES_NAME in bundle.hashed_files
    loaded = bundle.load_hashes()
    assert [array.tolist() for array in loaded] == [content.tolist(), picture.tolist()]
    (tmp_path / HASHES_NAME).write_bytes(b"other")
    with pytest.raises(BundleError, match=rf"{HASHES_NAME} has SHA-256"):
        bundle.load_hashes()
    (tmp_path / HASHES_NAME).unlink()
    with pytest.raises(BundleError, match=rf"{HASHES_NAME} is missing"):
        Bundle(tmp_path)
    write_manifest(tmp_path, make_manifest(), MODEL_CARD)
    assert Bundle(tmp_path).load_hashes() is None


@pytest.mark.parametrize(
    ("content", "picture"),
    [
        (np.zeros(2, np.uint64), np.zeros((3, 32), np.uint8)),
        (np.zeros(2, np.uint64), np.zeros((2, 8), np.uint8)),
        (np.zeros(2, np.int64), np.zeros((2, 32), np.uint8)),
    ],
    ids=["other films", "another hash", "another type"],
)
def test_hashes_of_another_shape(content, picture, folder):
    """Hashes that nothing can be compared with are refused, however their SHA-256 is that of the manifest."""
    facts = read_facts(folder)
    facts["training"]["hashes"] = {
        "file": HASHES_NAME,
        "sha256": save_hashes(content, picture, folder / HASHES_NAME),
    }
    write_facts(folder, facts)
    with pytest.raises(BundleError, match=r"expected uint64 \(N,\) and uint8 \(N, 32\)"):
        Bundle(folder).load_hashes()
