"""Runs plans on Ray. The only package that imports Ray; code that only handles jobs does not wait for torch."""
