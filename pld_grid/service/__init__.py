"""Use cases: load grids, plan, run, submit, calibrate, report. The command line and notebooks call these functions."""
