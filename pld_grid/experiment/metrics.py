"""The metrics that training records, and how every table, figure, curve and log line names and formats them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric of an epoch.

    Attributes:
        name: The key in receipts, in MLflow and in grid files.
        label: The metric in words, as inside a sentence.
        unit: The unit of its values; empty if it has none.
        higher_is_better: Its direction; None if neither direction is better.
        short_label: The name where space is short; the label if empty.
        log_scale: Whether it falls towards zero by factors, so that a logarithmic axis shows it best.
        spec: The format specification of its values.
        in_tables: Whether a table may show it; the others describe how an epoch ran.
    """

    name: str
    label: str
    unit: str = ""
    higher_is_better: bool | None = None
    short_label: str = ""
    log_scale: bool = False
    spec: str = ".2f"
    in_tables: bool = True

    def axis_label(self, difference: bool = False) -> str:
        """Return `Top-1 accuracy (%)`, or `Difference in top-1 accuracy (points)`."""
        unit = "points" if difference and self.unit == "%" else self.unit
        words = f"difference in {self.label}" if difference else self.label
        # str.capitalize would lower the other letters, which may belong to names.
        return words[0].upper() + words[1:] + (f" ({unit})" if unit else "")

    def describe(self, value: float) -> str:
        """Return a value with the metric's short label and unit: `top-1 97.46 %`."""
        return f"{self.short_label or self.label} {value:{self.spec}} {self.unit}".rstrip()


TOP1 = Metric("top1", "top-1 accuracy", "%", higher_is_better=True, short_label="top-1")
TOP5 = Metric("top5", "top-5 accuracy", "%", higher_is_better=True, short_label="top-5")
BEST_TOP1 = Metric("best_top1", "best top-1 accuracy so far", "%", higher_is_better=True, short_label="best top-1")
BEST_EPOCH = Metric("best_epoch", "epoch of the best top-1 accuracy", short_label="epoch", spec=".0f", in_tables=False)
KL_TEACHER_STUDENT = Metric(
    "kl_teacher_student", "KL(teacher || student)", "nats", higher_is_better=False, log_scale=True, spec=".3f"
)
KL_STUDENT_TEACHER = Metric(
    "kl_student_teacher", "KL(student || teacher)", "nats", higher_is_better=False, log_scale=True, spec=".3f"
)
TRAIN_LOSS = Metric("train_loss", "training loss", higher_is_better=False, log_scale=True, spec=".4f")
LEARNING_RATE = Metric("learning_rate", "learning rate", spec=".3g", in_tables=False)
IMAGES_PER_SECOND = Metric(
    "images_per_second", "training speed", "images/s", higher_is_better=True, spec=".0f", in_tables=False
)

METRICS = {metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)}
