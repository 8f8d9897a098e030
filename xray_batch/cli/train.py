"""`xray-batch train`."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xray_batch.cli.options import Config, DatabaseUrl, Device, Home, open_settings
from xray_batch.cli.output import bars_on

if TYPE_CHECKING:
    from xray_batch.training.order import Progress


def train(
    data: Annotated[
        Path,
        typer.Option(help="Folder with labels.csv (file, label, patient_id, source), a CSV, or a folder per label."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that becomes the bundle; an interrupted training goes on there.")],
    bundle_id: Annotated[str | None, typer.Option("--id", help="Name of the bundle; local-cxr if not given.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the bundle; 1.0.0 if not given.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    ages: Annotated[
        str | None, typer.Option(help="Completed years of the patients it is meant for: 1-5. Others are flagged.")
    ] = None,
    notes: Annotated[Path | None, typer.Option(help="Markdown that the model card takes over.")] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option(
            help="SIDExEPOCHS@LEARNING_RATE,... with growing sides, the last that of the model's input; for one member "
            "only with its name in front: resnet50=64x3@0.03,224x1@0.01."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in one step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the split, the order and the augmentation.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate in so many parts, then train on all; else a tenth is held out.")
    ] = None,
    run_folds: Annotated[int | None, typer.Option(help="Train only so many of the folds.")] = None,
    only_cross_validate: Annotated[
        bool | None, typer.Option("--only-cross-validate", help="Stop after the folds: figures, but no bundle.")
    ] = None,
    reference_source: Annotated[
        str | None,
        typer.Option(help="Choose temperature, shift and thresholds on held-out images of this source only."),
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained", help="Start from torchvision's ImageNet weights (cached, or downloaded)."),
    ] = None,
    backbone_weights: Annotated[
        list[Path] | None,
        typer.Option(help="Start from this file, named resnet34* or resnet50*: safetensors, or torchvision's .pth."),
    ] = None,
    compile_networks: Annotated[
        bool | None, typer.Option("--compile", help="Compile the networks first: faster steps; needs a C compiler.")
    ] = None,
    device: Device = None,
    home: Home = None,
    config: Config = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Train both members from labelled images, calibrate them, and write a bundle.

    Images of one patient, and copies of one image, are never on both sides of a split.  Every option, and
    more, can stand in the table [train] of the configuration file.  Run the same command again to go on
    after an interruption.
    """
    settings = open_settings(home, config, database_url, device=device)

    from xray_batch.classify import select_device, select_dtype
    from xray_batch.settings import load_training_table
    from xray_batch.training.order import TrainingOrder, make_options
    from xray_batch.training.pixels import Decoding
    from xray_batch.training.train import train_bundle

    given = {
        "id": bundle_id,
        "version": version,
        "licence": licence,
        "ages": ages,
        "notes": notes,
        "stages": _stages_of_members(stages or []),
        "batch_size": batch_size,
        "seed": seed,
        "folds": folds,
        "run_folds": run_folds,
        "only_cross_validate": only_cross_validate,
        "reference_source": reference_source,
        "pretrained": pretrained,
        "backbone_weights": backbone_weights or None,
        "compile": compile_networks,
    }
    options = make_options(load_training_table(home, config), given)
    order = TrainingOrder(
        data=data,
        out=out,
        options=options,
        decoding=Decoding.from_settings(settings),
        backbone=options.backbone,
    )
    torch_device = select_device(settings.device)
    dtype = select_dtype(settings.precision, torch_device)
    with _progress() as progress:
        folder = train_bundle(order, device=torch_device, dtype=dtype, progress=progress)
    if folder is None:
        typer.echo(f"The figures are in {out / 'training' / 'metrics.json'}.")
    else:
        look = shlex.join(["xray-batch", "bundle", "show", str(folder.absolute())])
        typer.echo(f"The bundle is {folder}. Look at it:  {look}")


def _stages_of_members(options: list[str]) -> str | dict[str, str] | None:
    """Tell which stages each architecture is trained in, or all of them."""
    of_members = dict(option.split("=", 1) for option in options if "=" in option)
    of_all = [option for option in options if "=" not in option]
    if len(of_all) > 1 or (of_all and of_members):
        raise typer.BadParameter("--stages is given once for all members, or once for each with its name in front")
    return of_members or (of_all[0] if of_all else None)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Show bars with the time left on a terminal's stderr, and lines of text everywhere."""
    from rich.console import Console

    console = Console(stderr=True)
    bars = bars_on(console)

    class Shown:
        def task(self, description: str, total: int) -> Callable[[int], None]:
            identifier = bars.add_task(description, total=total)
            return lambda images: bars.advance(identifier, images)

        def report(self, line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    with bars:
        yield Shown()
