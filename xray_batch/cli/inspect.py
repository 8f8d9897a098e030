"""`xray-batch inspect`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Decode, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import Format, check_picture_path
from xray_batch.export import json_line
from xray_batch.records import GateCheck, ImageWarning, Outcome, Rejection
from xray_batch.visible import visible

if TYPE_CHECKING:
    from xray_batch.bundle import Bundle
    from xray_batch.decode.inspection import Inspection
    from xray_batch.records import ModelInput, Prediction
    from xray_batch.settings import Settings

#: What of a file's header belongs to the patient, and is shown only on request.
_PATIENT_FIELDS: Final = (
    "patient_id",
    "patient_age",
    "accession_number",
    "study_date",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
)

#: Standard deviations from black to white in a picture of a model input.
_SHOWN_SD: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """What the bundle makes of a decoded file."""

    model_input: "ModelInput | None"
    answer: "Prediction | Rejection | None"
    checks: tuple[GateCheck, ...]  #: of age and picture, after those of the header
    warnings: tuple[ImageWarning, ...]


def inspect(
    file: Annotated[Path, typer.Argument(help="DICOM, PNG or JPEG.", show_default=False)],
    png: Annotated[
        Path | None,
        typer.Option(
            help="Write the rendered picture here, and beside it, as NAME.model-input.png, the model's input."
        ),
    ] = None,
    show_patient: Annotated[bool, typer.Option("--show-patient", help="Show identifiers, dates and age too.")] = False,
    form: Annotated[Format, typer.Option("--format", help="Text, or one JSON object.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    decode: Decode = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Tell how one file is read, rendered and judged; nothing is stored.

    What was read, which table or window was applied, the decision about polarity, every check of the input
    gate with its value, the transfer syntax and its decoder.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device, decode=decode)
    if png is not None:
        check_picture_path(png, [file], "--png")
        check_picture_path(_beside(png), [file], "--png")

    from xray_batch.decode.inspection import inspect_file
    from xray_batch.decode.memory import limited_memory
    from xray_batch.pipeline.engine import choose_least_side

    found = open_bundle(settings)
    with limited_memory(settings.decode_memory_mb << 20):
        inspection = inspect_file(file, choose_least_side(found.manifest.input_spec, settings))
    judged = _judge(inspection, found, settings)
    if png is not None:
        _write_pictures(png, inspection, judged, found)
    facts = _facts(file, inspection, judged, show_patient=show_patient)
    if form is Format.JSON:
        typer.echo(json_line(facts))
    else:
        _print(facts)


def _judge(inspection: "Inspection", bundle: "Bundle", settings: "Settings") -> _Judged:
    """Prepare and classify the picture, even that of a file that is refused for its header."""
    from xray_batch.classify import NOT_FINITE, Ensemble
    from xray_batch.pipeline.patient_age import judge_age
    from xray_batch.standardize import prepare

    image = inspection.image
    if image is None:
        return _Judged(model_input=None, answer=inspection.rejection, checks=(), warnings=())
    model_input = prepare(image, bundle.manifest.input_spec)
    ensemble = Ensemble.from_settings(bundle, settings, batch_size=1)
    try:
        ((prediction, judgement),) = ensemble.examine([model_input])
    except FloatingPointError:
        return _Judged(model_input=model_input, answer=inspection.rejection or NOT_FINITE, checks=(), warnings=())
    ages = bundle.manifest.ages
    age = judge_age(image.header.patient_age, ages, settings.age_policy)
    age_rejection = age if isinstance(age, Rejection) else None
    limits = bundle.manifest.gate
    checks = (
        GateCheck(
            name="patient_age",
            found="absent" if image.header.patient_age is None else "outside" if age else "within",
            accepted=f"{ages or 'any'}; others are flagged, or refused by `age_policy`",
            rejection=age_rejection,
        ),
        GateCheck(
            name="picture",
            found=f"unlikeness {judgement.unlikeness:.2f}, atypicality {judgement.atypicality:.2f}"
            + (f", looks {judgement.kind}" if judgement.warnings or judgement.rejection else ""),
            accepted=f"up to {limits.refuse_above:.2f}; flagged above an atypicality of {limits.flag_above:.2f}",
            rejection=judgement.rejection,
        ),
        GateCheck(
            name="sharpness",
            found=f"{judgement.sharpness:.2f}",
            accepted=f"any; flagged below {limits.sharpness_below:.2f}",
        ),
    )
    return _Judged(
        model_input=model_input,
        answer=inspection.rejection or age_rejection or judgement.rejection or prediction,
        checks=checks,
        warnings=(*image.warnings, *((age,) if isinstance(age, ImageWarning) else ()), *judgement.warnings),
    )


def _facts(file: Path, inspection: "Inspection", judged: _Judged, *, show_patient: bool) -> dict[str, object]:
    """Return everything that is shown, as the JSON object has it."""
    from xray_batch.intake import printable

    header, image, syntax, answer = inspection.header, inspection.image, inspection.transfer_syntax, judged.answer
    rejection, prediction = (answer, None) if isinstance(answer, Rejection) else (None, answer)
    facts: dict[str, object] = {
        "file": printable(str(file)),
        "format": header.source_format if header else None,
        "transfer_syntax_uid": syntax.uid if syntax else None,
        "transfer_syntax": syntax.name if syntax else None,
        "decoder": syntax.decoder if syntax else None,
        "rows": image.pixels.shape[0] if image else None,
        "columns": image.pixels.shape[1] if image else None,
        "rendering": image.rendering if image else None,
        "steps": list(image.steps) if image else [],
        "checks": [
            {
                "check": check.name,
                "found": check.found,
                "accepted": check.accepted,
                "reason_code": check.rejection.reason_code if check.rejection else None,
            }
            for check in (*inspection.checks, *judged.checks)
        ],
        "warnings": list(judged.warnings),
        "outcome": prediction.outcome if prediction else Outcome.NOT_ANALYSED,
        "reason_code": rejection.reason_code if rejection else None,
        "reason": rejection.reason if rejection else None,
    }
    if show_patient and header:
        patient = asdict(header)
        facts |= {"patient": {name: str(patient[name]) for name in _PATIENT_FIELDS if patient[name] is not None}}
    return facts


def _print(facts: dict[str, object]) -> None:
    """Print the facts for people; the file may hold anything, so nothing of it is taken as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("", "", show_header=False, box=None)

    def add(name: str, value: object) -> None:
        table.add_row(Text(name, style="bold"), Text(visible(str(value))))

    add("file", facts["file"])
    add("format", facts["format"] or "not known")
    if facts["transfer_syntax_uid"]:
        add("transfer syntax", f"{facts['transfer_syntax']} ({facts['transfer_syntax_uid']})")
        add("decoder", facts["decoder"])
    if facts["rows"]:
        add("picture", f"{facts['rows']} rows, {facts['columns']} columns")
    for step in _strings(facts["steps"]):
        add("rendering", step)
    for check in _objects(facts["checks"]):
        result = f"REFUSED ({check['reason_code']})" if check["reason_code"] else "ok"
        add(f"check {check['check']}", f"{result}: {check['found']}; accepted: {check['accepted']}")
    add("warnings", ", ".join(_strings(facts["warnings"])) or "none")
    for name, value in _items(facts.get("patient")):
        add(name, value)
    reason = f": {facts['reason_code']}. {facts['reason']}" if facts["reason_code"] else ""
    add("outcome", f"{facts['outcome']}{reason}")
    console.print(table)


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _objects(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _items(value: object) -> list[tuple[str, object]]:
    return list(value.items()) if isinstance(value, dict) else []


def _beside(png: Path) -> Path:
    """Return where the picture of the model's input goes."""
    return png.with_name(f"{png.stem}.model-input.png")


def _write_pictures(png: Path, inspection: "Inspection", judged: _Judged, bundle: "Bundle") -> None:
    """Write what the model sees before and after standardize, 8 bits each.

    The model input has black at 3 SD below the mean of the training split and white at 3 SD above it.
    """
    import numpy as np
    from PIL import Image

    if inspection.image is None or judged.model_input is None:
        typer.echo(f"{png} is not written: the file has no picture that can be shown", err=True)
        return
    shown = (judged.model_input.pixels + _SHOWN_SD) / (2 * _SHOWN_SD)
    for path, pixels in ((png, inspection.image.pixels), (_beside(png), shown)):
        Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(path, format="PNG")
        path.chmod(0o640)  # a film is patient data
