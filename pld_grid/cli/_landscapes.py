"""`pld-grid landscapes`: the paper's Figures 3 and 4, from the losses themselves."""

from typing import Annotated

import typer

from pld_grid.cli import console


def landscapes(
    out: Annotated[str, typer.Option(help="Folder to write.")] = "reports/landscapes",
    points: Annotated[int, typer.Option(max=1001, help="Points along each side of the square; odd.")] = 81,
    seed: Annotated[int, typer.Option(max=2**31, help="Of the random teacher and directions.")] = 0,
    classes: Annotated[int, typer.Option(max=100_000, help="Length of the logits.")] = 1000,
    label_rank: Annotated[int, typer.Option(help="Place of the label in the teacher's ranking; 1: it is right.")] = 1,
) -> None:
    """Draw loss landscapes (Figures 3 and 4): DIST, KD, and PLD at four temperatures."""
    from pld_grid.landscapes import write_landscapes

    changed = write_landscapes(out, points=points, seed=seed, classes=classes, label_rank=label_rank)
    for path in changed:
        console.output.print(str(path), soft_wrap=True, markup=False, highlight=False)
    console.output.print(f"{out}: {len(changed)} files written" if changed else f"{out}: up to date", soft_wrap=True)
