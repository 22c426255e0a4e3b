"""The linter's rules against code that unpickles, evaluates, starts a shell, or imports what an input names."""

import re
import subprocess
import sys

import pytest
from paths import ROOT

DANGEROUS = [
    "import pickle",
    "import cloudpickle as harmless",
    "from pickle import loads",
    "from joblib.numpy_pickle import load",
    "import torch; torch.hub.load(path)",
    "import pandas; pandas.read_pickle(path)",
    "import yaml; yaml.load(text, Loader)",
    "from yaml import unsafe_load as read; read(text)",
    "eval(text)",
    "exec(text)",
    "import os; os.system(text)",
    "import subprocess; subprocess.run(text, shell=True)",
    "import importlib; importlib.import_module(name)",
    "import tarfile; tarfile.open(path).extractall(folder)",
    'serve(host="0.0.0.0")',
    "import os; os.chmod(path, 0o777)",
]
HARMLESS = ["import subprocess; subprocess.run([program, text])", "model.eval()"]


def _lint(lines: list[str]) -> set[int]:
    """Return the numbers of the lines that the project's security rules reject."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise"]
    done = subprocess.run(
        [*command, "--stdin-filename", "pld_grid/x.py", "-"],
        input="\n".join(lines),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return {int(number) for number in re.findall(r"^pld_grid/x\.py:(\d+):\d+: (?:S|TID)\d", done.stdout, re.MULTILINE)}


def test_lint_rejects_dangerous_calls_and_accepts_their_safe_forms():
    assert _lint(DANGEROUS) == set(range(1, len(DANGEROUS) + 1))
    assert _lint(HARMLESS) == set()


def test_package_never_unpickles_arrays_and_keeps_files_private():
    """The linter has no stable rule for torch.load, numpy.load and Path.chmod."""
    sources = {path: path.read_text() for path in (ROOT / "pld_grid").rglob("*.py")}
    assert len(sources) > 100
    unsafe = re.compile(
        r"(?<!safetensors\.)torch\.load\((?![^\n]*weights_only=True)|from torch import load|"
        r"allow_pickle(?!=False\b)|0o777|0o666"
    )
    assert [path for path, text in sources.items() if unsafe.search(text)] == []


def test_names_select_only_registered_modules():
    from pld_grid.train import data, losses

    for name in ("os", "../kd", "kd.os", "_base", "_tar", "losses.kd", "", "pld_grid.train.losses.kd", "kd\x00"):
        with pytest.raises(ValueError, match="unknown dataset"):
            data.get_module(name)
        with pytest.raises(ValueError, match="unknown loss"):
            losses.get_loss_class(name)
