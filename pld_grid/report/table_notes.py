"""What a reader must know besides a table's numbers, as plain sentences that every rendering of the table shows."""

from pld_grid.report.code_versions import VERSION_MARK, describe_version, is_dirty
from pld_grid.report.statistics import binomial_error
from pld_grid.report.table import Table


def collect_notes(table: Table) -> dict[str, str]:
    """Return the notes that apply to the table, by label; each can be read without its label."""
    notes = {
        "Intervals": describe_intervals(table),
        "Validation": describe_validation(table),
        "Code": describe_versions(table),
    }
    return {label: text for label, text in notes.items() if text}


def describe_numbers(table: Table) -> str:
    """Return what each number is."""
    if len(table.setting.seeds) > 1:
        return "mean ± sample standard deviation (number of seeds)"
    return 'one seed, so no standard deviation ("-")'


def describe_intervals(table: Table) -> str:
    """Return what the intervals are and why some are missing; empty for a table without differences."""
    differences = [value for value in table.values if value.is_difference]
    if not differences:
        return ""
    if len(table.setting.seeds) < 2:
        return '"[-]": no interval, as there is only one seed'
    text = (
        "[low, high] is the 95 % t interval of the mean difference over seeds; differences are paired by seed, because"
        " equal seeds share initial weights and batches; all seeds share their teachers"
    )
    if any(value.interval is None for value in differences):
        text += '; "[-]": no interval, as fewer than two seeds finished or all seeds gave the same number'
    return text


def describe_validation(table: Table) -> str:
    """Return the standard error that the size of the validation set implies for the table's mean top-1 accuracy."""
    images = table.setting.validation_images
    if images is None:
        return "The size of the validation set is unknown, and with it the binomial standard error of an accuracy"
    if table.mean_top1 is None:
        return f"{images:,} validation images"
    error = binomial_error(table.mean_top1, images)
    return (
        f"{images:,} validation images: a top-1 accuracy of {table.mean_top1:.1f} % (the mean of this table) has a"
        f" binomial standard error of {error:.2f} percentage points; more seeds do not reduce it"
    )


def describe_versions(table: Table) -> str:
    """Return which code versions computed the cells; empty for a single version without uncommitted changes."""
    if len(table.versions) < 2:
        version = table.main_version
        return f"All cells were computed by {describe_version(version)}" if is_dirty(version) else ""
    counts = [f"{n} cell{'s' * (n > 1)} by {describe_version(version)}" for version, n in table.versions.items()]
    return (
        f"Computed: {', '.join(counts)}; {VERSION_MARK} marks numbers that another version than the first computed, at"
        " least in part"
    )
