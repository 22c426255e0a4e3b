"""Forwards what Tune trials report to the driver. Imports Ray, so import it only where Ray is needed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import PlacementGroupID, tune
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from pld_grid.experiment.cohort import Cohort
from pld_grid.experiment.events import CellDiverged, CellFinished, EpochCompleted, Event, EventCallback
from pld_grid.orchestrate.ray_internals import reset_failure_count
from pld_grid.orchestrate.tuner import EVENTS, PLACEMENT_GROUP, TrialFailure

# Events after which a cohort can continue from something new.
_PROGRESS = (EpochCompleted, CellFinished, CellDiverged)


class EventForwarder(tune.Callback):
    """Passes the events of trials on and records why trials failed.

    Args:
        cohorts: The cohort of each trial, by the trial's index.
        on_event: Receives every event of a cell.
        on_retry: Receives the cohort of a trial whose worker died and that Tune starts again.
    """

    def __init__(self, cohorts: Sequence[Cohort], on_event: EventCallback, on_retry: Callable[[Cohort], None]) -> None:
        self.cohorts, self.on_event, self.on_retry = cohorts, on_event, on_retry
        self._failures: dict[int, TrialFailure] = {}
        self._placement_groups: dict[str, str] = {}

    def results(self) -> list[tuple[Cohort, TrialFailure | None]]:
        """Return each cohort with the failure of its trial, or None if the trial ended by itself."""
        return [(cohort, self._failures.get(index)) for index, cohort in enumerate(self.cohorts)]

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Pass on the events of a report."""
        if PLACEMENT_GROUP in result:
            self._placement_groups[trial.trial_id] = result[PLACEMENT_GROUP]
        events = [Event.from_dict(event) for event in result.get(EVENTS, ())]
        if any(isinstance(event, _PROGRESS) for event in events):
            # A grid may run for weeks, so only deaths without progress in between count.
            reset_failure_count(trial)
        for event in events:
            self.on_event(event)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Announce that Tune starts a trial again."""
        self._release_resources(trial)
        self.on_retry(self.cohorts[trial.config["cohort"]])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Record the last line of the error of a trial that Tune gave up."""
        self._release_resources(trial)
        lines = Path(trial.error_file).read_text().split("\n") if trial.error_file else []
        reason = next((line for line in reversed(lines) if line.strip()), "")
        self._failures[trial.config["cohort"]] = TrialFailure(reason, trial.num_failures)

    def _release_resources(self, trial: Any) -> None:
        """Release what a killed trial's workers hold, for which the trial's next attempt would wait forever.

        Ray does so itself only with its dashboard, which a local cluster lacks.
        """
        group = self._placement_groups.pop(trial.trial_id, None)
        if group is not None:
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))

    def __reduce__(self) -> Any:
        """Pickle as an empty callback: Tune stores callbacks to resume a driver, which this package never does."""
        return tune.Callback, ()
