"""`xray-batch explain`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import BundleName, Config, DatabaseUrl, Decode, Device, Home, open_bundle, open_settings
from xray_batch.cli.output import Format, check_picture_path
from xray_batch.errors import RejectedInputError
from xray_batch.export import json_line
from xray_batch.records import HeatMap, ImageWarning, Outcome, Rejection
from xray_batch.visible import visible

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from xray_batch.bundle import Bundle
    from xray_batch.classify import Explanation
    from xray_batch.settings import Settings

#: How the map of all members together is named.
_ENSEMBLE = "ensemble"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Explained:
    """A film, what the bundle makes of it, and the map that is shown."""

    film: "npt.NDArray[np.float32]"  #: the part of the picture that the model saw, at its own size
    explanation: "Explanation"
    architectures: tuple[str, ...]
    model_id: str
    disagreement_limit: float  #: above it the answer is indeterminate, whatever the probability
    member: str | None  #: None for the average of all
    warnings: tuple[ImageWarning, ...]

    @property
    def shown(self) -> HeatMap:
        """The map of all members, or of the one that is asked for alone."""
        from xray_batch.heat_map import make_heat_map

        heat_map = self.explanation.heat_map
        if self.member is None:
            return heat_map
        alone = heat_map.members[self.architectures.index(self.member)]
        return make_heat_map([alone], *alone.shape)


def explain(
    file: Annotated[Path, typer.Argument(help="DICOM, PNG or JPEG.", show_default=False)],
    out: Annotated[Path, typer.Option(help="PNG to write: the film beside the film with its heat map.")],
    member: Annotated[
        str | None, typer.Option(help="Show the heat map of this network alone: resnet34 or resnet50.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Text, or one JSON object.")] = Format.TABLE,
    bundle: BundleName = None,
    device: Device = None,
    decode: Decode = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Show which parts of a film raise the probability of pneumonia; nothing is stored.

    Where the model is sensitive, not where disease is.  Research use only.  The picture holds the film and no
    attribute of its header.  A file that is refused has no picture, and exit code 1.
    """
    settings = open_settings(home, config, database_url, bundle=bundle, device=device, decode=decode)

    from xray_batch.intake import printable

    found = open_bundle(settings)
    architectures = tuple(facts.architecture for facts in found.manifest.members)
    if member is not None and member not in architectures:
        message = f"--member is {member!r}, the bundle has {' and '.join(architectures)}"
        raise typer.BadParameter(message)
    check_picture_path(out, [file], "--out")
    answer = _explain(file, found, settings, member)
    if isinstance(answer, Rejection):
        _report_refusal(file, answer, form)
        raise typer.Exit(1)
    _write(out, answer)
    if form is Format.JSON:
        typer.echo(json_line(_facts(file, out, answer)))
    else:
        warnings, picture = ", ".join(answer.warnings) or "none", visible(printable(str(out)))
        typer.echo("\n".join([*_lines(answer), f"warnings: {warnings}", f"picture: {picture}"]))


def _explain(file: Path, bundle: "Bundle", settings: "Settings", member: str | None) -> _Explained | Rejection:
    """Decode, prepare and classify a film, or tell what the service would refuse it for."""
    from xray_batch.decode import decode_file
    from xray_batch.decode.memory import limited_memory, rejection_of
    from xray_batch.pipeline.engine import choose_least_side
    from xray_batch.pipeline.explain import Explainer
    from xray_batch.standardize import prepare, trim

    explainer = Explainer(bundle, settings)
    spec = bundle.manifest.input_spec
    try:
        with limited_memory(settings.decode_memory_mb << 20):
            image = decode_file(file, choose_least_side(spec, settings))
    except (RejectedInputError, MemoryError) as error:
        return rejection_of(error)
    explained = explainer.explain(prepare(image, spec))
    if isinstance(explained, Rejection):
        return explained
    return _Explained(
        film=trim(image.pixels, spec),
        explanation=explained.explanation,
        architectures=tuple(facts.architecture for facts in bundle.manifest.members),
        model_id=bundle.manifest.model_id,
        disagreement_limit=bundle.manifest.disagreement_limit,
        member=member,
        warnings=explained.warnings,
    )


def _report_refusal(file: Path, rejection: Rejection, form: Format) -> None:
    """Say why there is no picture: people on stderr, programs on stdout."""
    from xray_batch.intake import printable

    name = printable(str(file))
    if form is Format.JSON:
        reason = {"reason_code": rejection.reason_code, "reason": rejection.reason}
        typer.echo(json_line({"file": name, "outcome": Outcome.NOT_ANALYSED, **reason, "picture": None}))
    else:
        typer.echo(visible(f"{name} is not analysed: {rejection.reason_code}. {rejection.reason}"), err=True)


def _write(out: Path, explained: _Explained) -> None:
    """Write the picture, with what the model says in its text chunks too; for owner and group alone."""
    from PIL.PngImagePlugin import PngInfo

    from xray_batch import __version__
    from xray_batch.overlay import CAPTION

    facts = PngInfo()
    facts.add_text("Software", f"xray-batch {__version__}")
    facts.add_text("Disclaimer", CAPTION)
    share = explained.shown.thorax_share
    facts.add_text("heat_in_thorax", "none" if share is None else f"{share:.4f}")
    facts.add_text("heat_map", explained.member or _ENSEMBLE)
    facts.add_text("model_id", explained.model_id)
    facts.add_text("p_pneumonia", f"{explained.explanation.prediction.p_pneumonia:.4f}")
    picture = _draw(explained)
    out.touch(mode=0o640)  # a film is patient data
    picture.save(out, format="PNG", pnginfo=facts)


def _draw(explained: _Explained) -> "Image.Image":
    """Draw the picture; its text is about model and pixels, and nothing of the header."""
    from xray_batch.overlay import draw_explanation

    names = explained.member or f"mean of {' and '.join(explained.architectures)}"
    lines = _lines(explained)
    warnings = explained.explanation.judgement.warnings
    if warnings:
        lines.append(f"The picture has a warning: {', '.join(warnings)}")
    return draw_explanation(explained.film, explained.shown.average, f"heat map, {names}", lines)


def _lines(explained: _Explained) -> list[str]:
    """Say what the model says, for people."""
    from xray_batch.heat_map import THORAX

    prediction = explained.explanation.prediction
    members = ", ".join(
        f"{architecture} {probability:.4f}" for architecture, probability in prediction.member_probabilities.items()
    )
    if prediction.disagreement > explained.disagreement_limit:
        limit = f"up to {explained.disagreement_limit:.4f} an answer is given"
        members += f"; they differ by {prediction.disagreement:.4f}, {limit}"
    share = explained.shown.thorax_share
    heat = "no part of the film raises it" if share is None else f"{share:.2f} in the middle of the film"
    return [
        f"P(pneumonia) {prediction.p_pneumonia:.4f}: {prediction.outcome}"
        f" (normal below {prediction.threshold_low:.4f}, pneumonia from {prediction.threshold_high:.4f})",
        f"networks before calibration: {members}",
        f"heat: {heat} (spread evenly: {THORAX.area:.2f})",
        f"model: {explained.model_id}",
    ]


def _facts(file: Path, out: Path, explained: _Explained) -> dict[str, object]:
    """Return what is said as the JSON object has it."""
    from xray_batch.intake import printable

    explanation = explained.explanation
    members = explanation.prediction.member_probabilities.items()
    return {
        "file": printable(str(file)),
        "outcome": explanation.prediction.outcome,
        "p_pneumonia": explanation.prediction.p_pneumonia,
        "threshold_low": explanation.prediction.threshold_low,
        "threshold_high": explanation.prediction.threshold_high,
        "members": [{"architecture": name, "p_pneumonia": probability} for name, probability in members],
        "heat_map": explained.member or _ENSEMBLE,
        "heat_in_thorax": explained.shown.thorax_share,
        "warnings": list(explained.warnings),
        "model_id": explained.model_id,
        "picture": printable(str(out)),
    }
