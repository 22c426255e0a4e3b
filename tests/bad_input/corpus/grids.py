"""Grids. A text is the file; what is said begins after the file's name."""

from front_door import Case


def block(inner: str) -> str:
    return f"cells: {{teacher: ResNet-152, student: ResNet-50, loss: kd, {inner}}}\n"


def values(inner: str) -> str:
    return block(f"hyperparameters: {{kd: {inner}}}")


def table(inner: str) -> str:
    return block("seed: 0") + f"table: {inner}\n"


def column(inner: str) -> str:
    return table(f"{{rows: [loss], columns: [{{header: A, {inner}}}]}}")


NUMBERS = ", ".join(map(str, range(1, 1001)))
ONES = ", ".join("1" * 1000)

TEXTS = {
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
    "too large": ("#" * 300_000, ": larger than 200000 bytes"),
    "null for a key": ("~: 1\n", ":1: a key must be plain text or a number, not null"),
    "true for a key": ("cells: {true: 1}\n", ":1: cells: a key must be plain text or a number, not true"),
    "character beyond all": ('a: "\\UFFFFFFFF"\n', ":1: not valid YAML: no character has such a number"),
    "character just beyond all": ('a: 1\nb: "\\U00110000"\n', ":2: not valid YAML: no character has such a number"),
    "endless version": ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", ":1: not valid YAML: "),
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
    "label of a teacher that is an axis": (
        "cells:\n  - {role: teacher, teacher: ResNet-152, labels: {epochs: a}}\n",
        ':2: cells[0].labels.epochs: "epochs" is an axis',
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
    "a million million cells": (
        block(
            f"seed: [{NUMBERS}], epochs: [{NUMBERS}], hyperparameters: {{kd: {{alpha: [{ONES}], tau: [{NUMBERS}]}}}}"
        ),
        ":1: cells: expands to 1000000000000 cells, more than the limit of 2000",
    ),
    "rows that name a label twice": (table("{rows: [loss, loss]}"), ":2: table: `rows` names a label twice"),
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

CASES = {
    name: Case(("run", "bad.yaml"), f"bad.yaml | {said}", {"bad.yaml": text}) for name, (text, said) in TEXTS.items()
}
