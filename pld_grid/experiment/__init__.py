"""Describe an experiment: cells, grids, profiles and the machines that they run on. Imports neither torch nor Ray."""
