"""`python -m pld_grid`: the command line, where the console script is not on the path."""

from pld_grid.cli import script

if __name__ == "__main__":
    script()
