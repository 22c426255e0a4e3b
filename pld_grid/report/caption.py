"""What a reader has to know beside a table's numbers, as plain sentences: the same in every form of the table."""

from pld_grid.report.statistics import binomial_error
from pld_grid.report.table import Table
from pld_grid.report.versions import is_dirty, version_text

MARK = "†"


def captions(table: Table) -> dict[str, str]:
    """The sentences below that apply to the table, each with a label; they can be read without it."""
    found = {
        "Intervals": interval_caption(table),
        "Validation": validation_caption(table),
        "Code": versions_caption(table),
    }
    return {label: text for label, text in found.items() if text}


def numbers_caption(table: Table) -> str:
    """What the numbers are."""
    if len(table.setting.seeds) > 1:
        return "mean ± sample standard deviation (number of seeds)"
    return 'one seed, so no standard deviation ("-")'


def interval_caption(table: Table) -> str:
    """What the intervals are, and where there are none; empty for a table without differences."""
    differences = [value for value in table.values if value.is_difference]
    if not differences:
        return ""
    if len(table.setting.seeds) < 2:
        return '"[-]": one seed, hence no interval'
    text = (
        "[low, high] is the 95 % t interval of a difference's mean over seeds; equal seeds share initial weights and"
        " batches, so they are subtracted in pairs; all seeds share their teachers"
    )
    if any(value.interval is None for value in differences):
        text += '; "[-]": fewer than two seeds, or the same number under all of them, hence no interval'
    return text


def validation_caption(table: Table) -> str:
    """The standard error that the validation set alone gives an accuracy like the table's."""
    images = table.setting.validation_images
    if images is None:
        return "The size of the validation set is not known, so neither is the binomial standard error of an accuracy"
    text = f"{images:,} validation images"
    if table.top1 is None:
        return text
    return (
        f"{text}: a top-1 of {table.top1:.1f} % (the mean here) has a binomial standard error of"
        f" {binomial_error(table.top1, images):.2f} points, which more seeds do not remove"
    )


def versions_caption(table: Table) -> str:
    """Which code made the cells; empty where it was one version, without uncommitted changes."""
    if len(table.versions) < 2:
        return f"All cells by {version_text(table.version)}" if is_dirty(table.version) else ""
    said = [f"{number} cell{'s' * (number > 1)} by {version_text(v)}" for v, number in table.versions.items()]
    return f"{', '.join(said)}; {MARK} marks numbers that another version than the first had a part in"
