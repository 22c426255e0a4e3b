"""What the axes of figures are called, with their units."""

from dataclasses import dataclass

from pld_grid.layout import Metric


@dataclass(frozen=True)
class Quantity:
    """A metric in words, and its unit (empty: it has none); `by_ratio` if it falls towards zero by factors."""

    words: str
    unit: str
    by_ratio: bool = False

    def label(self, difference: bool = False) -> str:
        """An axis label: `Top-1 accuracy (%)`, or `Difference in top-1 accuracy (points)`."""
        unit = "points" if difference and self.unit == "%" else self.unit
        words = f"difference in {self.words}" if difference else self.words
        # Only the first letter: the rest may hold names.
        return words[0].upper() + words[1:] + (f" ({unit})" if unit else "")


QUANTITIES: dict[Metric, Quantity] = {
    "top1": Quantity("top-1 accuracy", "%"),
    "top5": Quantity("top-5 accuracy", "%"),
    "best_top1": Quantity("best top-1 accuracy so far", "%"),
    "kl_teacher_student": Quantity("KL(teacher || student)", "nats", by_ratio=True),
    "kl_student_teacher": Quantity("KL(student || teacher)", "nats", by_ratio=True),
    "train_loss": Quantity("training loss", "", by_ratio=True),
}
