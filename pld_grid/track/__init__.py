"""Mirror the store in MLflow, so that people can watch the runs there.

The store is the only source: `Tracker.sync` makes an MLflow run equal to the store's record of a cell, and may be
repeated and interrupted at will. `BackgroundSync` calls it while cells train. `mirrored_records` reads the numbers
back. If MLflow is down, no result is lost; a later `sync` brings MLflow up to date.

This package is the only importer of mlflow, and imports it on first use.
"""
