"""`xray-batch train`."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Device, Home, open_settings
from xray_batch.cli.output import progress_columns

if TYPE_CHECKING:
    from xray_batch.records import AgeRange
    from xray_batch.training.backbone import BackboneSource
    from xray_batch.training.optimize import Recipe, Stage
    from xray_batch.training.train import Progress

_STAGE = re.compile(r"^(?P<side>[1-9]\d*)x(?P<epochs>[1-9]\d*)@(?P<rate>0?\.\d+)$")

#: About half an hour for each member and 6,000 images on two quiet cores; a GPU affords more, at larger sides.
_DEFAULT_STAGES = "64x6@0.03,96x4@0.02"


def train(
    data: Annotated[Path, typer.Option(help="Folder with labels.csv (file, label, patient_id, source), or a CSV.")],
    out: Annotated[Path, typer.Option(help="Folder that becomes the bundle; an interrupted training goes on there.")],
    bundle_id: Annotated[str, typer.Option("--id", help="Name of the bundle.")] = "local-cxr",
    version: Annotated[str, typer.Option(help="Version of the bundle.")] = "1.0.0",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    ages: Annotated[
        str | None, typer.Option(help="Completed years of the patients it is meant for: 1-5. Others are flagged.")
    ] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            help="SIDExEPOCHS@LEARNING_RATE,... with growing sides, the last that of the model's input; for one member "
            "only with its name in front: resnet50=64x3@0.03,224x1@0.01."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images in one step.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the split, the order and the augmentation.")] = 0,
    reference_source: Annotated[
        str | None,
        typer.Option(help="Calibrate and measure on validation images of this source only; all if not given."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from torchvision's ImageNet weights (cached, or downloaded).")
    ] = False,
    backbone_weights: Annotated[
        list[Path] | None,
        typer.Option(help="Start from this file, named resnet34* or resnet50*: safetensors, or torchvision's .pth."),
    ] = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Train both members from labelled images, calibrate them, and write a bundle.

    Images of one patient are never on both sides of the split.  Run the same command again to go on after
    an interruption.
    """
    settings = open_settings(home, config, database_url, device=device)

    from xray_batch.classify import select_device, select_dtype
    from xray_batch.training.optimize import Recipe
    from xray_batch.training.train import TrainingOrder, train_bundle

    recipes = {
        architecture: Recipe(stages=_parse_stages(text), batch_size=batch_size, seed=seed)
        for architecture, text in _stages_of_members(stages or []).items()
    }
    order = TrainingOrder(
        data=data,
        out=out,
        bundle_id=bundle_id,
        version=version,
        licence=licence,
        ages=_parse_ages(ages),
        recipes=recipes,
        seed=seed,
        side=_one_side(recipes.values()),
        reference_source=reference_source,
        backbone=_backbone(pretrained, backbone_weights),
    )
    torch_device = select_device(settings.device)
    dtype = select_dtype(settings.precision, torch_device)
    with _progress() as progress:
        folder = train_bundle(order, device=torch_device, dtype=dtype, progress=progress)
    typer.echo(f"The bundle is {folder}. Look at it:  xray-batch bundle show {folder.absolute()}")


def _stages_of_members(options: list[str]) -> dict[str, str]:
    """Tell which stages each architecture is trained in."""
    from xray_batch.networks import ARCHITECTURES

    chosen = dict.fromkeys(ARCHITECTURES, _DEFAULT_STAGES)
    for option in sorted(options, key=lambda option: "=" in option):  # those for one member win
        architecture, _, text = option.rpartition("=")
        if architecture and architecture not in chosen:
            raise typer.BadParameter(f"--stages names {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
        chosen |= {architecture: text} if architecture else dict.fromkeys(ARCHITECTURES, text)
    return chosen


def _one_side(recipes: "Iterable[Recipe]") -> int:
    """Return the side of the model input, on which the members must agree."""
    sides = {recipe.stages[-1].side for recipe in recipes}
    if len(sides) != 1:
        raise typer.BadParameter(f"--stages end at {sorted(sides)} pixels: all members see the same input")
    return sides.pop()


def _parse_ages(text: str | None) -> "AgeRange | None":
    from xray_batch.records import AgeRange

    if text is None:
        return None
    youngest, _, oldest = text.partition("-")
    if not (youngest.isdecimal() and oldest.isdecimal() and int(youngest) <= int(oldest)):
        raise typer.BadParameter(f"--ages has {text!r}, expected two numbers of years such as 1-5")
    return AgeRange(youngest=int(youngest), oldest=int(oldest))


def _parse_stages(text: str) -> "tuple[Stage, ...]":
    from xray_batch.training.optimize import Stage

    stages = []
    for part in text.split(","):
        match = _STAGE.match(part.strip())
        if match is None:
            message = f"--stages has {part!r}, expected SIDExEPOCHS@LEARNING_RATE such as 224x10@0.01"
            raise typer.BadParameter(message)
        side, epochs, rate = int(match["side"]), int(match["epochs"]), float(match["rate"])
        stages.append(Stage(side=side, epochs=epochs, learning_rate=rate))
    return tuple(stages)


def _backbone(pretrained: bool, files: list[Path] | None) -> "BackboneSource | None":
    from xray_batch.training.backbone import FileBackbone, TorchvisionBackbone

    if files:
        return FileBackbone(files)
    return TorchvisionBackbone() if pretrained else None


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Show bars with the time left on a terminal's stderr, and lines of text everywhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    bars = Progress(*progress_columns(), console=console, disable=not console.is_terminal)

    class Shown:
        def task(self, description: str, total: int) -> Callable[[int], None]:
            identifier = bars.add_task(description, total=total)
            return lambda images: bars.advance(identifier, images)

        def report(self, line: str) -> None:
            console.print(line, markup=False, highlight=False)

    with bars:
        yield Shown()
