"""The mirror: MLflow shows what the store holds, and never the other way round.

`Tracker` brings MLflow up to date with the store, one cell at a time, as often as one likes: what MLflow already has
is not logged again. `Mirrorer` does so in the background while cells train. `records` reads the numbers back. When
MLflow is away, nothing is lost but the sight of it: the store keeps everything.

This package is the only importer of mlflow, and loads it when first used.
"""

from pld_grid.track.database import prepare_database, upgrade_database
from pld_grid.track.mirrorer import Mirrorer
from pld_grid.track.runs import finished, records
from pld_grid.track.server import EXPERIMENT, database_path, default_tracking_uri, load, ui_address, ui_command
from pld_grid.track.submission import Submission, alive, living, new_id, newest, queued
from pld_grid.track.tracker import Tracker
from pld_grid.uris import public_uri

__all__ = [
    "EXPERIMENT",
    "Mirrorer",
    "Submission",
    "Tracker",
    "alive",
    "database_path",
    "default_tracking_uri",
    "finished",
    "living",
    "load",
    "new_id",
    "newest",
    "prepare_database",
    "public_uri",
    "queued",
    "records",
    "ui_address",
    "ui_command",
    "upgrade_database",
]
