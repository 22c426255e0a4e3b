"""Names that lead elsewhere: out of a folder, into timm's loaders, or to files that no system can hold."""

from front_door import Case

from corpus.profiles import PROFILE

GRID = "cells: {student: ResNet-50, loss: ce}\n"
PLAIN = 'is no plain name; up to 100 letters, digits, "-" and "_" always are one'


def _grid(name: str, said: str) -> Case:
    return Case(("plan", name), said, {name: GRID})


def _within(text: str, said: str) -> Case:
    return Case(("run", "bad.yaml"), f"bad.yaml{said}", {"bad.yaml": text})


def _profile(name: str, said: str) -> Case:
    return Case(("run", "mine.yaml", "--profile", name), said, {"mine.yaml": GRID})


def _model(model: str, said: str) -> Case:
    text = PROFILE.replace("models:\n", f"models:\n  Mine: {model}\n")
    return Case(
        ("run", "mine.yaml", "--profile", "bad.yaml"), f"bad.yaml:23: {said}", {"bad.yaml": text, "mine.yaml": GRID}
    )


def with_option(option: str) -> str:
    """A profile whose models have one with an option of its own."""
    return PROFILE.replace("models:\n", f"models:\n  Mine: {{architecture: test_resnet, options: {{{option}}}}}\n")


def _option(option: str, said: str) -> Case:
    return _model(f"{{architecture: test_resnet, options: {{{option}}}}}", f"models.Mine: {said}")


def _paper(name: str) -> Case:
    return _within(f"{GRID}table: {{rows: [loss], paper: {name}}}\n", f":2: table.paper: | {PLAIN}")


def _figure(name: str, said: str) -> Case:
    figure = f"{{name: {name}, title: x, kind: bars, x: Loss, y: Top-1}}"
    columns = "[{header: Loss, axis: loss}, {header: Top-1, metric: top1}]"
    return _within(
        f"{GRID}table: {{rows: [loss], columns: {columns}, figures: [{figure}]}}\n",
        f":2: table.figures[0].name: {said}",
    )


LOADS = "is no option of a model: it tells timm which one to build, wrap or load"
CASES = {
    # Files of grids and profiles.
    "grid with a line break": _grid(
        "a\nb.yaml", rf'a\nb.yaml: a grid is called by its file\'s name; "a\nb" {PLAIN}'.replace("\\'", "'")
    ),
    "grid with a colon": _grid("a:b.yaml", f'"a:b" {PLAIN}'),
    "grid of a device": _grid("con.yaml", f'"con" {PLAIN}'),
    "hidden grid": _grid(".mine.yaml", f'".mine" {PLAIN}'),
    "long grid": _grid("x" * 150 + ".yaml", PLAIN),
    "grid with an escape": _grid("a\x1b[31m.yaml", r"a\x1b[31m.yaml: a grid is called by its file's name"),
    "endless grid": Case(("plan", "x" * 300 + ".yaml"), "cannot be read: File name too long"),
    "grid in an endless folder": Case(("plan", "x" * 300 + "/y.yaml"), "y.yaml: cannot be read: File name too long"),
    "nameless grid": Case(("plan", ""), "cannot be read: "),
    "folder for a grid": Case(("plan", "."), ".: cannot be read: Is a directory"),
    "device for a grid": Case(("plan", "/dev/zero"), "/dev/zero: cannot be read: it is not a regular file"),
    "report's own page for a grid": Case(
        ("report", "README.yaml"), "a report cannot hold a grid called README", {"README.yaml": GRID}
    ),
    "two grids of a name": Case(
        ("plan", "mine.yaml", "./mine.yaml"), "mine.yaml: two grids are called mine", {"mine.yaml": GRID}
    ),
    "missing grid": Case(("plan", "gone.yaml"), "gone.yaml: cannot be read: No such file or directory"),
    "grid that is no text": Case(
        ("plan", "latin.yaml"), "latin.yaml:1: not UTF-8 text", {"latin.yaml": b"cells: \xff\xfe\n"}
    ),
    "picture for a grid": Case(
        ("plan", "picture.yaml"), "picture.yaml:9: not UTF-8 text", {"picture.yaml": b"\n" * 8 + bytes(range(11, 256))}
    ),
    "profile above": _profile("../../x", '--profile: unknown profile "../../x"; valid: '),
    "profile from the root": _profile("/etc/passwd", '--profile: unknown profile "/etc/passwd"; valid: '),
    "profile of the home folder": _profile("~", '--profile: unknown profile "~"; valid: '),
    "nameless profile": _profile("", '--profile: unknown profile ""; valid: '),
    "profile with a line break": _profile("di\ngits", r'--profile: unknown profile "di\ngits"; valid: '),
    "endless profile": _profile("x" * 300 + ".yaml", ".yaml: no such file"),
    "missing profile": _profile("../x.yaml", "--profile: ../x.yaml: no such file"),
    "profile of a device": Case(
        ("run", "mine.yaml", "--profile", "aux.yaml"),
        f'aux.yaml: a profile is called by its file\'s name; "aux" {PLAIN}',
        {"mine.yaml": GRID, "aux.yaml": PROFILE},
    ),
    # What they name.
    "dataset above": Case(
        ("run", "mine.yaml", "--profile", "bad.yaml"),
        'bad.yaml:3: dataset.name: unknown dataset "../../x"; valid: ',
        {"mine.yaml": GRID, "bad.yaml": PROFILE.replace("name: digits", "name: ../../x")},
    ),
    "module for a dataset": Case(
        ("run", "mine.yaml", "--profile", "bad.yaml"),
        'bad.yaml:3: dataset.name: unknown dataset "_tar"; valid: ',
        {"mine.yaml": GRID, "bad.yaml": PROFILE.replace("name: digits", "name: _tar")},
    ),
    "module for a loss": _within(
        "cells: {student: ResNet-50, loss: os.system}\n", ':1: cells.loss: unknown loss "os.system"; valid: '
    ),
    "hidden file for a loss": _within(
        "cells: {student: ResNet-50, loss: _base}\n", ':1: cells.loss: unknown loss "_base"; valid: '
    ),
    "path for a loss": _within(
        "cells: {student: ResNet-50, loss: ../x}\n", ':1: cells.loss: unknown loss "../x"; valid: '
    ),
    "path for a student": _within(
        "cells: {student: ../../x, loss: ce}\n", ':1: cells.student: unknown model "../../x"; valid: '
    ),
    "hub for a student": _within(
        "cells: {student: 'hf-hub:timm/resnet18.a1_in1k', loss: ce}\n", ':1: cells.student: unknown model "hf-hub:timm/'
    ),
    "folder for a student": _within(
        "cells: {student: 'local-dir:/tmp/x', loss: ce}\n", ':1: cells.student: unknown model "local-dir:/tmp/x"'
    ),
    "folder for a teacher": _within(
        "cells: {student: ResNet-50, teacher: 'local-dir:/tmp/x', loss: kd}\n",
        ':1: cells.teacher: unknown model "local-dir:/tmp/x"',
    ),
    "module for an optimizer": _within(
        "cells: {student: ResNet-50, loss: ce, optimizer: torch.optim.SGD}\n",
        ':1: cells.optimizer: unknown optimizer "torch.optim.SGD"',
    ),
    "hub for an architecture": _model(
        "{architecture: 'hf-hub:timm/resnet18.a1_in1k'}", 'models.Mine: unknown model "hf-hub:timm/resnet18.a1_in1k"'
    ),
    "folder for an architecture": _model(
        "{architecture: 'local-dir:/tmp/x'}", 'models.Mine: unknown model "local-dir:/tmp/x"'
    ),
    "path for an architecture": _model("{architecture: ../../x}", 'models.Mine: unknown model "../../x"'),
    "path for a tag": _model(
        "{architecture: resnet18, pretrained: {tag: ../../x}}",
        'models.Mine: timm has no weights "../../x" for resnet18',
    ),
    "pretrained as an option": _option("pretrained: true", f'"pretrained" {LOADS}'),
    "checkpoint as an option": _option("checkpoint_path: /tmp/x.pth", f'"checkpoint_path" {LOADS}'),
    "configuration as an option": _option("pretrained_cfg: {url: 'http://x/y.pth'}", f'"pretrained_cfg" {LOADS}'),
    "overlay as an option": _option("pretrained_cfg_overlay: {file: /tmp/x}", f'"pretrained_cfg_overlay" {LOADS}'),
    "cache as an option": _option("cache_dir: /tmp/x", f'"cache_dir" {LOADS}'),
    "name as an option": _option("model_name: resnet18", f'"model_name" {LOADS}'),
    "features as an option": _option("features_only: true", f'"features_only" {LOADS}'),
    "device as an option": _option("device: cuda", f'"device" {LOADS}'),
    "path in an option": _option(
        "act_layer: ../../x", 'option "act_layer": "../../x" is no plain word; options are no paths'
    ),
    "address in an option": _option(
        "norm_layer: {a: ['http://x/y']}", 'option "norm_layer": "http://x/y" is no plain word'
    ),
    # Names of files to read and write.
    "printed table above": _paper("../../x"),
    "printed table from the root": _paper("/etc/passwd"),
    "printed table of a device": _paper("NUL"),
    "printed table with a null byte": _within(
        f'{GRID}table: {{rows: [loss], paper: "a\\0b"}}\n', ":2: table.paper: the control character \\x00"
    ),
    "printed table with a backslash": _paper("..\\x"),
    "nameless printed table": _paper("''"),
    "figure above": _figure("../x", "must match"),
    "figure of a device": _figure("con", f'"con" {PLAIN}'),
    "endless figure": _figure("x" * 300, f'"xxx | {PLAIN}'),
    "cell above": Case(
        ("run", "mine.yaml", "--only", "../../x"), '--only: no cell of these grids is "../../x"', {"mine.yaml": GRID}
    ),
    "cell with a line break": Case(
        ("run", "mine.yaml", "--only", "a\nb"), r'--only: no cell of these grids is "a\nb"', {"mine.yaml": GRID}
    ),
    "endless cell": Case(
        ("run", "mine.yaml", "--only", "f" * 50_000), "--only: no cell of these grids is | ...", {"mine.yaml": GRID}
    ),
    "teacher above": Case(("audit-teachers", "--teacher", "../../x"), '--teacher: unknown model "../../x"'),
    "explained cell above": Case(("why", "../../../etc"), '"../../../etc" is no cell id'),
    "explained grid above": Case(("why", "../x", "row", "column"), "cannot be read: "),
}
