"""The command ``kpdeform``: its help, its commands in a row on simulated rooms, its mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kpdeform import cli
from kpdeform.cli.packaged import _IN_THE_SOURCE_TREE, packaged
from kpdeform.cli.prepare import find_recipes
from tests.toy import ROOT, run_python


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs ``kpdeform`` with these arguments in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kpdeform", *map(str, arguments)])
        cli.main()

    return run


def refused(command, *arguments):
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert isinstance(stop.value.code, str) and stop.value.code.startswith("error: ")
    (line,) = stop.value.code.splitlines()  # a text is shown, and the exit code is 1
    return line


def helped(command, capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_imports_no_torch():
    code = "import sys; sys.argv = ['kpdeform', '--help']; import kpdeform.cli as c; c.main()"
    done = run_python("-c", f"{code}; print({{'torch', 'numpy'}} & set(sys.modules))")
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)
    assert run_python("-m", "kpdeform", "--help").stdout in done.stdout


def test_version(command, capsys):
    import kpdeform

    command("--version")
    assert capsys.readouterr().out == f"{kpdeform.__version__}\n"
    assert run_python("-m", "kpdeform", "--version").stdout == f"{kpdeform.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["lable"], ["--verbose"]])
def test_an_unknown_command_is_answered_with_the_known_ones(command, arguments):
    line = refused(command, *arguments)
    assert all(word in line for word in (*arguments, *cli.COMMANDS))


@pytest.mark.parametrize("name", ["train", "evaluate", "label", "view"])
def test_every_option_has_a_sentence(command, capsys, name):
    text = helped(command, capsys, name, "--help", "all")
    _, _, options = text.partition("options:\n")
    starts = [line for line in options.splitlines() if line.startswith("  -")]
    assert text.startswith(f"usage: kpdeform {name} ") and starts
    lines = options.splitlines()
    for row, line in enumerate(lines):
        if line.startswith("  -"):
            words = [*line[24:].split(), *(" ".join(lines[row + 1 : row + 2])).split()]
            assert words and not words[0].startswith("("), line


def test_train_shows_the_usual_options_first(command, capsys):
    few = helped(command, capsys, "train", "--help")
    assert "--run" in few and "--data.root" in few and "--help all shows every option" in few
    assert "--task.label_smoothing" not in few and "Linked arguments" not in few
    assert len([line for line in few.splitlines() if line.startswith("  -")]) <= 12
    assert "--task.label_smoothing" in helped(command, capsys, "train", "--help", "all")
    images = helped(command, capsys, "train", "images", "--help", "all")
    assert "--data.classes" in images


def test_info(command, capsys):
    command("info")
    assert "CPU library" in capsys.readouterr().out
    assert "unrecognized" in refused(command, "info", "all")


def test_a_reader_that_has_ended_is_no_error():
    """As in ``kpdeform info | head -n 1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kpdeform", "info"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1


def test_labelling_needs_no_package_of_the_training():
    code = (
        "import sys\n"
        "for name in ('lightning', 'torchmetrics', 'tensorboard'): sys.modules[name] = None\n"
        "sys.argv = ['kpdeform', 'label', 'a.ply', 'b.ply', '--model', 'missing']\n"
        "import kpdeform.cli; kpdeform.cli.main()"
    )
    done = run_python("-c", code)
    assert done.stderr.startswith("error: model missing is not there; ") and done.returncode == 1


def test_recipes_have_names(command, capsys):
    folders = {path.parent.name for path in ROOT.glob("datasets/*/prepare.py")}
    class_maps = {path.stem for path in ROOT.glob("datasets/*/*.yaml")}
    assert folders | class_maps == {*find_recipes()} and {"mosd", "pandaset_6"} <= class_maps
    command("prepare", "--help")
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in find_recipes())
    assert helped(command, capsys, "prepare", "ign", "--help").startswith("usage: kpdeform prepare")
    for arguments in ([], ["ingn", "RAW"]):
        line = refused(command, "prepare", *arguments)
        assert "ign, modelnet" in line and all(word in line for word in arguments[:1])
    assert "sub6mm/learn0" in refused(command, "prepare", "mosd", ".")  # the folder is empty


def test_a_wheel_holds_recipes_and_configurations(monkeypatch, tmp_path):
    tomllib = pytest.importorskip("tomllib")
    mapping = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    for name, folder in _IN_THE_SOURCE_TREE.items():
        assert mapping["wheel"]["packages"][f"kpdeform/{name}"] == folder
        assert packaged(name) == ROOT / folder
    (tmp_path / "kpdeform" / "datasets").mkdir(parents=True)
    monkeypatch.setattr("kpdeform.__file__", str(tmp_path / "kpdeform" / "__init__.py"))
    assert packaged("datasets") == tmp_path / "kpdeform" / "datasets"


def test_missing_options_are_named_as_they_are_typed(command):
    line = refused(command, "train", "--run", "run")
    assert line.endswith("required: --data.root, --data.cell_size")
    assert refused(command, "label", "a.ply").endswith("required: --model")


def test_configurations_have_names(command):
    assert (packaged("configs") / "ign.yaml").is_file()
    assert "data/ign" in refused(command, "train", "--config", "ign", "--run", "run")
    assert "data/ign" in refused(command, "train", "--config=ign", "--run=run")
    line = refused(command, "train", "--config", "ing", "--run", "run")
    assert "--config ing" in line and "ign, ign_kpconvx" in line
    assert "missing.yaml" in refused(command, "train", "--config", "missing.yaml", "--run", "run")


NEXT = [
    "kpdeform evaluate --model runs/rooms --data data/rooms --out runs/rooms/val",
    "kpdeform label FILE --model runs/rooms --out runs/rooms/labelled",
    "tensorboard --logdir runs/rooms",
]


def test_from_nothing_to_a_labelled_room(command, capsys):
    """Simulated rooms are prepared, learned from in two steps, scored and labelled."""
    pytest.importorskip("open3d")
    plyfile = pytest.importorskip("plyfile")
    command("prepare", "rooms", "--split", 1, 1, "--step", 3, "--spacing", 0.05)
    options = ["--max_steps", 2, "--data.max_points", 3000, "--trainer.progress_bar", "false"]
    capsys.readouterr()
    command("train", "--config", "rooms", "--run", "runs/rooms", *options)
    text = capsys.readouterr().out
    assert text.startswith("training runs/rooms\n")
    assert "files in runs/rooms: best.ckpt, last.ckpt, model, curves.png" in text
    assert text.endswith("next:\n" + "".join(f"  {line}\n" for line in NEXT))
    scored = ["--data", "data/rooms", "--out", "val", "--predictions", "ply"]
    command("evaluate", "--model", "runs/rooms", *scored)
    assert "mean IoU" in capsys.readouterr().out
    (scored,) = Path("val").glob("*.ply")
    for model, output in (("runs/rooms", "a.ply"), ("runs/rooms/model", "b.ply")):
        command("label", scored, output, "--model", model)
    assert Path("a.ply").read_bytes() == Path("b.ply").read_bytes()
    assert len(plyfile.PlyData.read("a.ply")["vertex"].data) > 5000
    record = json.loads(Path("runs/rooms/model/model.json").read_text())
    assert record["data"]["licence"] == "CC0-1.0"
