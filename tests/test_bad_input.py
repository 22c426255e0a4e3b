"""What users get wrong, and the one line that they get for it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pld_grid.catalogue import Catalogue
from pld_grid.errors import InputError
from pld_grid.grid import load_grid
from pld_grid.profile import Profile, load_profile

# A profile of the project's own kind, written out so that tuning theirs changes no test.
PROFILE = """\
description: digits for tests
dataset:
  name: digits
  image_size: 16
recipe:
  batch_size: 128
  micro_batch_size: 128
  warmup_epochs: 1
  augmentation:
    crop: padded
    padding: 1
  mean: [0.306]
  std: [0.340]
optimizer: lamb
optimizers:
  lamb: {learning_rate: 2e-2, weight_decay: 0.02}
  adamw: {learning_rate: 2e-3, weight_decay: 0.02}
epochs: {100: 10, 300: 30}
teachers:
  source: trained
  epochs: 10
models:
  ResNet-50: {architecture: test_resnet}
machine:
  cpus_per_cohort: 1
"""

# Words of ours or of pydantic's that tell a user nothing.
JARGON = re.compile(
    r"Traceback|https?://|pydantic|function-|validation|NoneType|\bNone\b|\bTrue\b|\bFalse\b|instance of|"
    r"\bdict\b|dictionary|\btuple\b|<class|Error\b|valid string|valid integer|Input should|\bctx\b|ValidationInfo"
)


def check(error: InputError, name: str, expected: str) -> None:
    message = str(error)
    assert message.isprintable(), message
    assert len(message) < 1100
    assert error.exit_code == 2
    assert re.search(rf"{name}\.yaml:\d+: ", message) or "cannot be read" in message or "larger than" in message, (
        message
    )
    assert not JARGON.search(message), message
    head, _, tail = expected.partition(" | ")
    assert head in message, message
    assert tail in message, message


def block(inner: str) -> str:
    return f"cells: {{teacher: ResNet-152, student: ResNet-50, loss: kd, {inner}}}\n"


def values(inner: str) -> str:
    return block(f"hyperparameters: {{kd: {inner}}}")


def table(inner: str) -> str:
    return block("seed: 0") + f"table: {inner}\n"


def column(inner: str) -> str:
    return table(f"{{rows: [loss], columns: [{{header: A, {inner}}}]}}")


NUMBERS = ", ".join(map(str, range(1, 1001)))

# name: (text, "what the message starts with after the file | what else it says")
GRIDS = {
    # The file as a whole.
    "empty": ("", ":1: the file is empty"),
    "comments only": ("# nothing\n\n# here\n", ":1: the file is empty"),
    "a list": ("- a\n- b\n", ':1: expected a mapping of keys to values, not ["a", "b"]'),
    "plain text": ("hello\n", ':1: expected a mapping of keys to values, not "hello"'),
    "no cells": ("description: x\n", ':1: missing key "cells"'),
    "several documents": ("cells: {}\n---\ncells: {}\n", ":2: not valid YAML: | another document"),
    "unclosed": ("cells: {\n  student: [\n\n", ":4: not valid YAML: "),
    "unclosed quote": ("a: 1\ncells: 'abc\n", ":3: not valid YAML: | begins on line 2"),
    "tab": ("cells:\n\tstudent: x\n", r":2: not valid YAML: found character '\t'"),
    "two colons": ("cells: a: b\n", ":1: not valid YAML: mapping values are not allowed here"),
    "null byte": ("cells:\n  student: \0\n", ":2: not a text file: character 0x00"),
    "bell": ("cells: \a\n", ":1: not a text file: character 0x07"),
    "nested lists": ("cells: " + "[" * 60_000, ":1: not valid YAML: nested more than 20 levels deep"),
    "nested mappings": ("cells: " + "{a: " * 5000, ":1: not valid YAML: nested more than 20 levels deep"),
    "nested blocks": (
        "".join(" " * i + "a:\n" for i in range(200)),
        ":21: not valid YAML: nested more than 20 levels deep",
    ),
    "too large": ("#" * 300_000, ".yaml: larger than 200000 bytes"),
    "complex key": ("? [a, b]\n: c\n", ":1: a key must be plain text or a number"),
    # YAML features that data does not need.
    "python tag": ("cells: !!python/object/apply:os.system [ls]\n", ":1: cells: YAML tag !!python/object/apply:os.sys"),
    "own tag": ("cells: !x {a: b}\n", ":1: cells: YAML tag !x is not supported"),
    "int tag": (block("seed: !!int '3'"), ":1: cells.seed: YAML tag !!int is not supported"),
    "binary tag": (block("labels: {a: !!binary aGk=}"), ":1: cells.labels.a: YAML tag !!binary is not supported"),
    "set tag": ("cells: !!set {a, b}\n", ":1: cells: YAML tag !!set is not supported"),
    "tag on a key": ("!x cells: 1\n", ":1: YAML tag !x is not supported"),
    "alias": ("a: &a [1]\nb: *a\n", ":2: b: YAML aliases | are not supported"),
    "bomb": (
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)),
        ":2: b[0]: YAML aliases",
    ),
    "alias of itself": ("a: &a [*a]\n", ":1: a[0]: YAML aliases"),
    "alias of nothing": ("a: *b\n", ":1: not valid YAML: found undefined alias 'b'"),
    "merge key": ("a: &a {x: 1}\nb:\n  <<: *a\n", ":3: b.<<: YAML aliases"),
    "duplicate key": (block("seed: 0") + block("seed: 1"), ':2: cells: duplicate key "cells", first on line 1'),
    "duplicate inner key": (
        "cells:\n  loss: kd\n  loss: pld\n",
        ':3: cells.loss: duplicate key "loss", first on line 2',
    ),
    # Unknown names, with the nearest valid one.
    "unknown key": ("cels: {}\n", ':1: cels: unknown key "cels"; valid: cells, | (did you mean "cells"?)'),
    "unknown key in a block": (
        block("optimiser: lamb"),
        ':1: cells.optimiser: unknown key "optimiser"; valid: | (did you mean "optimizer"?)',
    ),
    "unknown key on its line": (
        "cells:\n  - loss: kd\n    sed: 1\n",
        ':3: cells[0].sed: unknown | (did you mean "seed"?)',
    ),
    "key that is a number": ("3: x\n", ":1: [3]: unknown key 3; valid: cells"),
    "key with a line break": ('"a\\nb": 3\n', r':1: a\nb: unknown key "a\nb"; valid: '),
    "unknown loss": (
        "cells: {loss: kdd}\n",
        ':1: cells.loss: unknown loss "kdd"; valid: ce, dist, | (did you mean "kd"?)',
    ),
    "unknown loss in a list": (
        "cells:\n  loss:\n    - kd\n    - pdl\n",
        ':4: cells.loss[1]: unknown loss "pdl"; | (did you mean "pld"?)',
    ),
    "unknown student": (
        "cells: {student: ResNet-51, loss: ce}\n",
        ':1: cells.student: unknown model "ResNet-51"; valid: | (did you mean "ResNet-50"?)',
    ),
    "unknown timm model": (
        "cells: {student: vit_tiny_patch16_225, loss: ce}\n",
        ':1: cells.student: unknown | "vit_tiny_patch16_224"?)',
    ),
    "unknown teacher": (
        "cells: {teacher: [ResNet-152, ResNet-15], student: ResNet-50, loss: kd}\n",
        ':1: cells.teacher[1]: unknown model "ResNet-15"; valid: | (did you mean "ResNet-152"?)',
    ),
    "unknown teacher of a loss without one": (
        "cells: {teacher: ResNet-1520, student: ResNet-50, loss: ce}\n",
        ':1: cells.teacher: unknown model "ResNet-1520"',
    ),
    "student with a tag": (
        "cells: {student: resnet50.a1_in1k, loss: ce}\n",
        ':1: cells.student: students start from scratch: write "resnet50", without the tag "a1_in1k"',
    ),
    "name with a line break": ('cells: {student: "Res\\nNet", loss: ce}\n', r'unknown model "Res\nNet"'),
    "very long name": (f"cells: {{student: {'x' * 5000}, loss: ce}}\n", ':1: cells.student: unknown model "xxx | xxx'),
    "unknown optimizer": (
        block("optimizer: lambb"),
        ':1: cells.optimizer: unknown optimizer "lambb"; valid: | (did you mean "lamb"?)',
    ),
    "optimizer without settings": (
        block("optimizer: sgd"),
        ':1: cells.optimizer: optimizer "sgd" has no settings in profile digits; it has: ',
    ),
    "unknown hyperparameter": (
        values("{alhpa: 0.1}"),
        ':1: cells.hyperparameters.kd.alhpa: loss kd has no hyperparameter "alhpa"; valid: | (did you mean "alpha"?)',
    ),
    "hyperparameters of a loss that is not there": (
        block("hyperparameters: {pld: {tau: 1}}"),
        ':1: cells.hyperparameters.pld: "pld" is no loss of this block (kd)',
    ),
    "unknown loss in hyperparameters": (
        block("hyperparameters: {kdd: {tau: 1}}"),
        ':1: cells.hyperparameters.kdd: "kdd" is no loss | (did you mean "kd"?)',
    ),
    "unknown loss in defaults": (
        "defaults: {hyperparameters: {kdd: {tau: 1}}}\n" + block("seed: 0"),
        ':1: defaults.hyperparameters.kdd: unknown loss "kdd"; valid: | (did you mean "kd"?)',
    ),
    "unknown hyperparameter in unused defaults": (
        "defaults: {hyperparameters: {dist: {bata: 1}}}\n" + block("seed: 0"),
        ":1: defaults.hyperparameters.dist.bata: loss dist has no hyperparameter | (did you mean",
    ),
    "unknown divergence": (
        block("divergence: [forward, revers]"),
        ':1: cells.divergence[1]: kd: unknown divergence "revers"; | "reverse"?)',
    ),
    "unknown divergence that no loss uses": (
        "cells: {teacher: ResNet-152, student: ResNet-50, loss: pld, divergence: jss}\n",
        ':1: cells.divergence: | "js"?)',
    ),
    "divergence twice": (
        block("divergence: js, hyperparameters: {kd: {divergence: forward}}"),
        ":1: cells.divergence: also among the hyperparameters of kd; give it once",
    ),
    "unknown standardization": (
        block("standardization: [none, bth]"),
        ':1: cells.standardization[1]: unknown standardization "bth"; | "both"?)',
    ),
    "unknown standardization that no loss uses": (
        "cells: {student: ResNet-50, loss: ce, standardization: x}\n",
        ":1: cells.standardization: unknown standardization",
    ),
    "unknown role": (
        block("role: studnt"),
        ':1: cells.role: unknown value "studnt"; valid: | (did you mean "student"?)',
    ),
    # Wrong types.
    "text for cells": ("cells: abc\n", ':1: cells: expected a mapping of keys to values, not "abc"'),
    "text for a block": ("cells:\n  - abc\n", ':2: cells[0]: expected a mapping of keys to values, not "abc"'),
    "null cells": ("cells:\n", ":1: cells: expected a mapping of keys to values, not null"),
    "no blocks": ("cells: []\n", ":1: cells: must not be empty"),
    "mapping for a list": (block("seed: {a: 1}"), ':1: cells.seed: expected a whole number, not {"a": 1}'),
    "mapping for a name": ("cells: {student: {a: b}, loss: ce}\n", ':1: cells.student: expected text, not {"a": "b"}'),
    "number for a name": ("cells: {student: 3, loss: ce}\n", ":1: cells.student: expected text, not 3"),
    "null in a list": ("cells: {student: [~], loss: ce}\n", ":1: cells.student[0]: expected text, not null"),
    "true for a name": (block("standardization: true"), ":1: cells.standardization: expected text, not true"),
    "text for a seed": (block('seed: "1"'), ':1: cells.seed: expected a whole number, not "1"'),
    "true for a seed": (block("seed: true"), ":1: cells.seed: expected a whole number, not true"),
    "fraction for a seed": (block("seed: [0, 1.5]"), ":1: cells.seed[1]: expected a whole number, not 1.5"),
    "negative seed": (block("seed: -1"), ":1: cells.seed: must be at least 0, not -1"),
    "huge seed": (block("seed: 2147483648"), ":1: cells.seed: must be less than 2147483648, not 2147483648"),
    "endless seed": (block(f"seed: {'9' * 400}"), ":1: cells.seed: 9999 | is not a finite number"),
    "text for epochs": (block('epochs: "128"'), ':1: cells.epochs: expected a whole number, not "128"'),
    "no epochs": (block("epochs: 0"), ":1: cells.epochs: must be at least 1, not 0"),
    "too many epochs": (block("epochs: 100001"), ":1: cells.epochs: must be at most 100000, not 100001"),
    "list of hyperparameters": (
        block("hyperparameters: [kd]"),
        ':1: cells.hyperparameters: expected a mapping of keys to values, not ["kd"]',
    ),
    "number for a sweep": (
        block("hyperparameters: {kd: 3}"),
        ":1: cells.hyperparameters.kd: expected a mapping of keys to values, not 3",
    ),
    "mapping for a value": (values("{alpha: {a: 1}}"), ":1: cells.hyperparameters.kd.alpha: expected | not {"),
    "null value": (values("{alpha: }"), ":1: cells.hyperparameters.kd.alpha: expected | a number or text, not null"),
    "list for a label": (
        block("labels: {x: [1]}"),
        ":1: cells.labels.x: expected text, true or false or a number, not [1]",
    ),
    # Numbers that are none, or out of range.
    "text for a number": (
        values('{alpha: "0.1"}'),
        ":1: cells.hyperparameters.kd.alpha: kd: alpha must be | got '0.1'",
    ),
    "word for a number": (
        values("{alpha: no}"),
        ":1: cells.hyperparameters.kd.alpha: kd: alpha must be a finite number",
    ),
    "negative": (
        values("{alpha: [0.1, -1]}"),
        ":1: cells.hyperparameters.kd.alpha[1]: kd: alpha must be | [0, 1], got -1",
    ),
    "above one": (values("[{tau: 1}, {alpha: 2}]"), ":1: cells.hyperparameters.kd[1].alpha: kd: alpha must be | got 2"),
    "zero temperature": (values("{tau: 0}"), ":1: cells.hyperparameters.kd.tau: kd: tau must be | got 0"),
    "nan": (values("{alpha: .nan}"), ":1: cells.hyperparameters.kd.alpha: .nan is not a finite number"),
    "nan in words": (values("{alpha: nan}"), ":1: cells.hyperparameters.kd.alpha: kd: alpha must be a finite number"),
    "infinity": (values("{tau: .inf}"), ":1: cells.hyperparameters.kd.tau: .inf is not a finite number"),
    "overflow": (values("{tau: 1e999}"), ":1: cells.hyperparameters.kd.tau: 1e999 is not a finite number"),
    "in defaults": (
        "defaults: {hyperparameters: {kd: {tau: [1, -2]}}}\n" + block("seed: 0"),
        ":1: defaults.hyperparameters.kd.tau[1]: kd: tau must be",
    ),
    # Nothing, or too much.
    "empty axis": ("cells: {student: [], loss: ce}\n", ":1: cells.student: must not be empty"),
    "empty sweep": (values("[]"), ":1: cells.hyperparameters.kd: must not be empty"),
    "empty values": (values("{alpha: []}"), ":1: cells.hyperparameters.kd.alpha: must not be empty"),
    "no teacher": ("cells: {student: ResNet-50, loss: kd}\n", ":1: cells: loss kd needs a teacher"),
    "no student": ("cells: {loss: ce}\n", ":1: cells: this block names no student"),
    "no loss": ("cells: {student: ResNet-50}\n", ":1: cells: this block names no loss"),
    "teacher block without teachers": ("cells: {role: teacher}\n", ":1: cells: a teacher block needs teacher names"),
    "teacher block with a loss": (
        "cells:\n  role: teacher\n  teacher: ResNet-152\n  loss: kd\n",
        ":4: cells.loss: a teacher block takes no such key",
    ),
    "label that is an axis": (
        block("labels: {seed: 3}"),
        ':1: cells.labels.seed: "seed" is an axis of this block already',
    ),
    "label that is a hyperparameter": (block("labels: {tau: 3}"), ':1: cells.labels.tau: "tau" is an axis'),
    "everything excluded": (block("seed: 0") + "exclude: [{loss: kd}]\n", ":2: exclude[0]: excludes everything"),
    "nothing excluded": (
        block("seed: 0") + "exclude:\n  - {loss: kdd}\n",
        ':3: exclude[0].loss: no cell has loss "kdd"; it is: | "kd"?)',
    ),
    "combination that does not occur": (
        "cells:\n  - {student: ResNet-50, loss: ce}\n  - {student: ViT-Small/16, loss: ls}\n"
        "exclude: [{student: ResNet-50, loss: ls}]\n",
        ":4: exclude[0]: excludes nothing: no cell is all of this",
    ),
    "empty exclusion": (block("seed: 0") + "exclude: [{}]\n", ":2: exclude[0]: must not be empty"),
    "exclusion of no axis": (
        block("seed: 0") + "exclude: [{los: kd}]\n",
        ':2: exclude[0].los: "los" is no axis or label | (did you mean "loss"?)',
    ),
    "exclusion without list": (block("seed: 0") + "exclude: {loss: kd}\n", ':2: exclude: expected a list, not {"loss"'),
    "too many cells": (
        block(f"seed: [{NUMBERS}], epochs: [{NUMBERS}], hyperparameters: {{kd: {{alpha: [0, 1], tau: [{NUMBERS}]}}}}"),
        ":1: cells: expands to 2000000000 cells, more than the limit of 2000 (--max-cells raises it)",
    ),
    # The table.
    "rows of no axis": (
        table("{rows: [optimzer]}"),
        ':2: table.rows: "optimzer" is no axis or label | (did you mean "optimizer"?)',
    ),
    "column of no axis": (column("axis: los"), ':2: table.columns[0].axis: "los" is no axis or label | "loss"?)'),
    "column of an axis beside the rows": (
        column("axis: student"),
        ':2: table.columns[0].axis: "student" is not among the',
    ),
    "column where no axis": (
        column("metric: top1, where: {los: kd}"),
        ':2: table.columns[0].where.los: "los" is no axis',
    ),
    "column where no loss": (
        column("metric: top1, where: {loss: kdd}"),
        ':2: table.columns[0].where.loss: unknown loss "kdd"; | "kd"?)',
    ),
    "column only for no axis": (
        column("metric: top1, only: {los: kd}"),
        ':2: table.columns[0].only.los: "los" is no axis',
    ),
    "column of two kinds": (
        column("axis: loss, metric: top1"),
        ":2: table.columns[0]: a column needs | axis and metric",
    ),
    "column of no kind": (column("format: .1f"), ":2: table.columns[0]: a column needs exactly one of | it has none"),
    "unknown metric": (
        column("metric: top2"),
        ':2: table.columns[0].metric: unknown value "top2"; valid: top1, | (did you mean "top',
    ),
    "difference of what is not there": (
        column("minus: [B, C]"),
        ':2: table: column "A" subtracts "B", which is no column',
    ),
    "difference of one": (column("minus: [B]"), ":2: table.columns[0].minus: value 2 is missing"),
    "difference of three": (column("minus: [A, B, C]"), ":2: table.columns[0].minus: expected at most 2 values, not 3"),
    "unknown table key": (table("{row: [loss]}"), ':2: table.row: unknown key "row"; valid: | (did you mean "rows"?)'),
    "unknown column key": (column("metrc: top1"), ':2: table.columns[0].metrc: unknown key | (did you mean "metric"?)'),
    "column without header": (
        table("{rows: [loss], columns: [{metric: top1}]}"),
        ':2: table.columns[0]: missing key "header"',
    ),
    "format": (column("metric: top1, format: '%f'"), ":2: table.columns[0].format: must match"),
    "text for a table": (table("table07"), ':2: table: expected a mapping of keys to values, not "table07"'),
    "difference row": (
        table("{rows: [loss], difference_rows: [{header: x, minus: [{los: kd}, {loss: pld}]}]}"),
        ':2: table.difference_rows[0].minus[0].los: "los" is no axis or label',
    ),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids(tmp_path: Path, profile: Callable[[str], Profile], name: str) -> None:
    text, expected = GRIDS[name]
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_grid(path, profile("digits"))
    check(caught.value, "bad", expected)


def test_grid_files_that_are_none(tmp_path: Path, profile: Callable[[str], Profile]) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"cells: \xff\xfe\n")
    (tmp_path / "picture.yaml").write_bytes(bytes(range(256)))
    for name, expected in {
        "folder": "folder.yaml: cannot be read: Is a directory",
        "missing": "missing.yaml: cannot be read: No such file or directory",
        "latin": "latin.yaml:1: not UTF-8 text",
        "picture": "not UTF-8 text",
    }.items():
        with pytest.raises(InputError) as caught:
            load_grid(tmp_path / f"{name}.yaml", profile("digits"))
        check(caught.value, name, expected)


# name: (text in the profile, its replacement, what the message says)
PROFILES = {
    "unknown dataset": (
        "name: digits",
        "name: digit",
        'dataset.name: unknown dataset "digit"; valid: | (did you mean "digits"?)',
    ),
    "class count": (
        "  name: digits",
        "  num_classes: 12\n  name: digits",
        'dataset.num_classes: unknown key "num_classes"',
    ),
    "text for a size": ("image_size: 16", 'image_size: "16"', 'dataset.image_size: expected a whole number, not "16"'),
    "no size": ("image_size: 16", "image_size: 0", "dataset.image_size: must be at least 1, not 0"),
    "text for a batch": (
        "  batch_size: 128",
        '  batch_size: "128"',
        'recipe.batch_size: expected a whole number, not "128"',
    ),
    "fraction for a batch": (
        "  batch_size: 128",
        "  batch_size: 128.0",
        "recipe.batch_size: expected a whole number, not 128",
    ),
    "true for a batch": (
        "  batch_size: 128",
        "  batch_size: true",
        "recipe.batch_size: expected a whole number, not true",
    ),
    "null for a batch": ("  batch_size: 128", "  batch_size:", "recipe.batch_size: expected a whole number, not null"),
    "no batch": ("  batch_size: 128\n", "", 'recipe: missing key "batch_size"'),
    "key of the recipe": (
        "  batch_size: 128",
        "  batchsize: 128",
        'recipe.batchsize: unknown key | (did you mean "batch_size"?)',
    ),
    "uneven micro-batch": (
        "micro_batch_size: 128",
        "micro_batch_size: 100",
        "recipe: batch_size 128 is not a multiple of micro_batch_size 100",
    ),
    "unknown crop": (
        "crop: padded",
        "crop: pad",
        'recipe.augmentation.crop: unknown value "pad"; valid: none, | "padded"?)',
    ),
    "key of the augmentation": (
        "crop: padded",
        "corp: padded",
        'augmentation.corp: unknown key | (did you mean "crop"?)',
    ),
    "falling scale": ("crop: padded", "scale: [0.5, 0.1]", "recipe.augmentation: scale must rise"),
    "large scale": ("crop: padded", "scale: [0.5, 2]", "recipe.augmentation: scale must rise and end at 1 at most"),
    "short scale": ("crop: padded", "scale: [0.5]", "recipe.augmentation.scale: value 2 is missing"),
    "negative scale": (
        "crop: padded",
        "scale: [-0.5, 1]",
        "recipe.augmentation.scale[0]: must be greater than 0, not -0.5",
    ),
    "one for true": ("crop: padded", "horizontal_flip: 1", "horizontal_flip: expected true or false, not 1"),
    "text in a list": ("mean: [0.306]", "mean: ['0.3']", 'recipe.mean[0]: expected a number, not "0.3"'),
    "true in a list": ("mean: [0.306]", "mean: [true]", "recipe.mean[0]: expected a number, not true"),
    "no list": ("mean: [0.306]", "mean: 0.3", "recipe.mean: expected a list, not 0.3"),
    "other channels": (
        "mean: [0.306]\n  std: [0.340]",
        "mean: [1, 1, 1]\n  std: [1, 1, 1]",
        "recipe.mean: 3 values for 1 channel(s)",
    ),
    "other lengths": ("mean: [0.306]", "mean: [1, 1]", "recipe: mean has 2 values, std has 1"),
    "no deviation": ("std: [0.340]", "std: [0]", "recipe.std[0]: must be greater than 0, not 0"),
    "negative warm-up": ("warmup_epochs: 1", "warmup_epochs: -1", "recipe.warmup_epochs: must be at least 0, not -1"),
    "unknown precision": ("warmup_epochs: 1", "precision: floa32", 'recipe.precision: unknown value | "float32"?)'),
    "unknown default optimizer": (
        "optimizer: lamb\n",
        "optimizer: lamp\n",
        'optimizer: unknown optimizer "lamp"; | (did you mean "lamb"?)',
    ),
    "unknown optimizer": (
        "  adamw:",
        "  adamww:",
        'optimizers.adamww: unknown optimizer "adamww"; | (did you mean "adamw"?)',
    ),
    "optimizer that needs a device": ("  adamw:", "  bnbadam:", 'optimizers.bnbadam: unknown optimizer "bnbadam"'),
    "negative rate": (
        "learning_rate: 2e-2",
        "learning_rate: -1",
        "optimizers.lamb.learning_rate: must be greater than 0",
    ),
    "no rate": ("learning_rate: 2e-2, ", "", 'optimizers.lamb: missing key "learning_rate"'),
    "text for a rate": ("learning_rate: 2e-2", "learning_rate: fast", 'learning_rate: expected a number, not "fast"'),
    "unknown option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {epz: 1}",
        'options.epz: unknown lamb option "epz"; | "eps"?)',
    ),
    "text for an option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {eps: small}",
        "options.eps: expected a number, as its default",
    ),
    "number for a list": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {betas: 0.9}",
        "options.betas: expected a list of numbers, as",
    ),
    "nested option": ("learning_rate: 2e-2", "learning_rate: 1, options: {eps: {a: 1}}", "options.eps: expected"),
    "rate as an option": (
        "learning_rate: 2e-2",
        "learning_rate: 1, options: {lr: 1}",
        'options.lr: unknown lamb option "lr"',
    ),
    "text for epochs": ("{100: ", "{many: ", 'epochs.many: expected a whole number, not "many"'),
    "no epochs": ("{100: 10", "{100: 0", "epochs[100]: must be at least 1, not 0"),
    "unknown source": (
        "source: trained",
        "source: train",
        'teachers.source: unknown value "train"; | (did you mean "trained"?)',
    ),
    "unknown teacher optimizer": (
        "source: trained",
        "source: trained\n  optimizer: lmb",
        'teachers.optimizer: unknown optimizer "lmb"; | "lamb"?)',
    ),
    "teacher with a teacher": (
        "source: trained",
        "source: trained\n  loss: kd",
        'teachers.loss: unknown value "kd"; valid:',
    ),
    "unknown architecture": (
        "{architecture: test_resnet",
        "{architecture: test_resnt",
        'unknown model "test_resnt"; | (did you mean "test_resnet"?)',
    ),
    "text for a model": (
        "ResNet-50: {",
        "ResNet-51: test_resnet\n  ResNet-50: {",
        "models.ResNet-51: expected a mapping",
    ),
    "unknown model key": (
        "ResNet-50: {architecture",
        "ResNet-50: {arch",
        'models.ResNet-50.arch: unknown key "arch"; valid:',
    ),
    "own class count": (
        "ResNet-50: {architecture: test_resnet",
        "ResNet-50: {options: {num_classes: 5}, architecture: test_resnet",
        "models.ResNet-50: num_classes comes from the dataset and cannot be an option of a model",
    ),
    "own channels": (
        "ResNet-50: {architecture: test_resnet",
        "ResNet-50: {options: {in_chans: 3}, architecture: test_resnet",
        "models.ResNet-50: in_chans comes from the dataset",
    ),
    "unknown tag": (
        "ResNet-50: {",
        "X: {architecture: resnet50, pretrained: {tag: a1_in1}}\n  ResNet-50: {",
        'models.X: timm has no weights "a1_in1" for resnet50; valid: a1_in1k, | (did you mean "a1_in1k"?)',
    ),
    "other classes": (
        "ResNet-50: {",
        "X: {architecture: resnet50, pretrained: {tag: a1_in1k}}\n  ResNet-50: {",
        "models.X: resnet50.a1_in1k knows 1000 classes, the dataset has 10",
    ),
    "machine without processors": (
        "cpus_per_cohort: 1",
        "cpus_per_cohort: 0",
        "machine.cpus_per_cohort: must be greater than",
    ),
    "unknown machine key": ("cpus_per_cohort: 1", "cpus: 1", 'machine.cpus: unknown key "cpus"; valid: '),
    "text for a cohort size": (
        "cpus_per_cohort: 1",
        "cohort_size: all",
        'machine.cohort_size: expected a whole number, not "al',
    ),
    "unknown top-level key": (
        "optimizers:\n",
        "optimisers:\n",
        'optimisers: unknown key | (did you mean "optimizers"?)',
    ),
    "duplicate": (
        "optimizer: lamb\n",
        "optimizer: lamb\noptimizer: lamb\n",
        'optimizer: duplicate key "optimizer", first on',
    ),
}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles(tmp_path: Path, catalogue: Catalogue, name: str) -> None:
    old, new, expected = PROFILES[name]
    assert old in PROFILE
    path = tmp_path / "bad.yaml"
    path.write_text(PROFILE.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_profile(path, catalogue)
    check(caught.value, "bad", expected)


IN21K = """\
description: ImageNet with one teacher
dataset: {name: imagenet, image_size: 224}
recipe: {batch_size: 8, micro_batch_size: 8, mean: [0, 0, 0], std: [1, 1, 1]}
optimizer: lamb
optimizers: {lamb: {learning_rate: 1e-3}}
teachers: {source: pretrained}
models:
  Small: {architecture: test_resnet}
  Big: {architecture: vit_base_patch16_224, pretrained: {tag: TAG}}
"""


def test_the_unchanged_profile_is_valid(tmp_path: Path, catalogue: Catalogue) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(PROFILE)
    assert load_profile(path, catalogue).recipe.batch_size == 128


def test_a_teacher_of_other_classes(tmp_path: Path, catalogue: Catalogue) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(IN21K.replace("TAG", "augreg_in21k"))
    with pytest.raises(InputError) as caught:
        load_profile(path, catalogue)
    check(
        caught.value,
        "bad",
        ":9: models.Big: vit_base_patch16_224.augreg_in21k knows 21843 classes, the dataset has 1000",
    )
    path.write_text(IN21K.replace("TAG", "augreg_in21k_ft_in1k"))
    loaded = load_profile(path, catalogue)
    grid = tmp_path / "grid.yaml"
    for teacher, expected in {
        "vit_base_patch16_224.augreg_in21k": "knows 21843 classes, the dataset has 1000",
        "Small": '"Small" has no published weights in profile bad, so it cannot teach',
        "test_resnet": 'teacher "test_resnet" needs a tag of published weights, as in "test_resnet.TAG"',
        "test_resnet.r160_in1": 'timm has no weights "r160_in1" for test_resnet; valid: r160_in1k (did you mean',
    }.items():
        grid.write_text(f"cells:\n  student: Small\n  loss: kd\n  teacher: {teacher}\n")
        with pytest.raises(InputError) as caught:
            load_grid(grid, loaded)
        check(caught.value, "grid", f":4: cells.teacher: | {expected}")
    grid.write_text("cells: {student: Small, loss: kd, teacher: Big}\n")
    assert load_grid(grid, loaded).entries[0].cell.teacher is not None
