"""Build the wheel with the grids, profiles, printed tables and claims inside, as `pld_grid/shipped`.

Their sources are top-level folders, which a clone uses directly. Mapping these folders to packages needs no copy and no
link in the clone. It is done here because `pyproject.toml` cannot add packages to those that setuptools finds itself.
"""

from setuptools import find_packages, setup

SHIPPED = {
    "pld_grid.shipped.grids": "grids",
    "pld_grid.shipped.grids.profiles": "grids/profiles",
    "pld_grid.shipped.reports.paper": "reports/paper",
}

setup(
    packages=[*find_packages(include=["pld_grid*"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={
        "pld_grid": ["py.typed", "report/templates/*", "report/figures/*.mplstyle", "paper/landscapes/templates/*"],
        **{name: ["*.csv", "*.md", "*.yaml"] for name in SHIPPED},
    },
)
