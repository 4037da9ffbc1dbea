"""Mistakes in a configuration or on a command line take one line; a file imports nothing."""

import sys

import pytest

from kpdeform.cli import start
from kpdeform.cli.options import call

COMMANDS = {
    "train": ["--run=run", "--data.root=missing", "--data.cell_size=1"],
    "evaluate": ["--model=a.ckpt", "--data=missing", "--out=out"],
    "label": ["a.ply", "b.ply", "--model=a.ckpt"],
    "view": ["--model=a.ckpt", "--data=missing"],
}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Runs a command that has to end in one line, which it returns, without leaving a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(command, *arguments):
        there = {*tmp_path.iterdir()}
        monkeypatch.setattr(sys, "argv", [command, *COMMANDS[command], *arguments])
        with pytest.raises(SystemExit) as stop:
            start(command, "segmentation" if command == "train" else "main")
        assert isinstance(stop.value.code, str), "the exit code must be 1"  # a text is printed
        assert stop.value.code.startswith("error: ") and "\n" not in stop.value.code
        assert {*tmp_path.iterdir()} == there
        return stop.value.code

    return run


BAD = [
    "task: {optimizer: NAME}",
    "task: {optimizer: {class_path: NAME}}",
    "task.optimizer: NAME",
    "task.optimizer.class_path: NAME",
    "task: {optimizer: {class_path: kpdeform.train.SGDSetup, init_args: {lr: {class_path: NAME}}}}",
    "data: {transforms: [{class_path: NAME}]}",
    "data: {transforms: [NAME]}",
    "data: {transforms: NAME}",
    "data.transforms.class_path: kpdeform.data.transforms.Compose\n"
    "data.transforms.init_args.transforms: [NAME]",
    "model: {factory: NAME}",
    "model.factory: NAME",
    "model: {arguments: {norm: {class_path: NAME}}}",
    "trainer: {class_path: NAME}",
    "class_path: NAME",
    "data: {transforms+: [NAME]}",
    "data.transforms+: NAME",
    "data:\n  transforms: !!set {NAME}",
]


@pytest.mark.parametrize("name", ["trap", "trap.make", "os.system", "antigravity.fly"])
@pytest.mark.parametrize("text", BAD)
def test_a_file_names_only_classes_of_kpdeform(text, name, refused, tmp_path):
    ran = tmp_path.parent / f"{tmp_path.name}-ran"
    (tmp_path / "trap.py").write_text(f"open({str(ran)!r}, 'w')\ndef make(): ...\n")
    (tmp_path / "bad.yaml").write_text(text.replace("NAME", name))
    before = set(sys.modules)
    line = refused("train", "--config", "bad.yaml")
    assert "bad.yaml" in line and name in line and "command line" in line
    assert not ran.exists() and not {"trap", "antigravity"} & (set(sys.modules) - before)


@pytest.mark.parametrize("path", ["~/part.yaml", "file://HOME/part.yaml"])
def test_a_file_by_another_spelling_is_not_read(path, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "part.yaml").write_text("optimizer: antigravity.fly")
    assert "no such file" in refused("train", "--task=" + path.replace("HOME", str(tmp_path)))
    assert "antigravity" not in sys.modules


def test_aliases_are_refused(refused, tmp_path):
    lines = ["a0: &a0 [x, x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
    ]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert "line 2 repeats an anchor" in refused("train", "--config=bomb.yaml")


@pytest.mark.parametrize("group", ["data", "task", "model", "trainer"])
def test_a_file_for_a_group_is_checked_too(group, refused, tmp_path):
    (tmp_path / "part.yaml").write_text("x: {class_path: antigravity.fly}")
    assert "antigravity.fly" in refused("train", f"--{group}=part.yaml")
    assert "antigravity.fly" in refused("train", f"--{group}", "part.yaml")
    (tmp_path / "outer.yaml").write_text(f"{group}: part.yaml")
    assert f"{group} must hold a mapping" in refused("train", "--config=outer.yaml")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a mapping"),
        ("- 1", "must hold a mapping"),
        ("data: [3", "not valid YAML"),
        ("data: {raduis: 3}", "did you mean data.radius"),
        ("max_stesp: 3", "did you mean max_steps"),
        ("data: {radius: [3]}", "data.radius"),
        ("data: {features: 3}", "data.features"),
        ("data: {crop: round}", "data.crop"),
        ("data: 3", "data"),
        ("max_steps: many", "max_steps"),
        ("task: {optimizer: {class_path: kpdeform.train.AdamWSetup, init_args: {l: 1}}}", "'l'"),
        ("trainer: {log_every: 1.5}", "trainer.log_every"),
        ("data: {transforms: [{class_path: kpdeform.data.transforms.Jitter}]}", "sigma"),
    ],
)
def test_mistakes_in_a_file(text, words, refused, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert words in refused("train", "--config", "c.yaml")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devcie=cpu"], "--devcie"),
        (["--modle=x"], "--modle"),
        (["--config"], "config"),
        (["one", "too", "many"], "one too many"),
        (["--config=missing.yaml"], ""),
        (["--config=."], ""),
    ],
)
def test_mistakes_on_a_command_line(command, arguments, words, refused):
    assert words in refused(command, *arguments)


def test_the_option_that_was_meant(refused):
    assert "did you mean data.radius?" in refused("train", "--data.raduis=3")
    assert "did you mean model?" in refused("evaluate", "--modle=3")


def test_a_missing_option_is_named(refused, monkeypatch):
    monkeypatch.setitem(COMMANDS, "evaluate", ["--data=missing"])
    assert "model" in refused("evaluate")


def test_a_factory_of_the_command_line_is_imported(refused, tmp_path):
    from kpdeform.cli.options import imported_factory

    (tmp_path / "own_models.py").write_text("def make(**options): ...\nnumber = 3\n")
    assert imported_factory("own_models.make").__name__ == "make"
    assert imported_factory(None) is None
    for name in ("own_models.other", "own_models", "no_such_module.make", "", "..", "own_models."):
        with pytest.raises(ValueError, match="--factory"):
            imported_factory(name)
    with pytest.raises(ValueError, match="no function but a int"):
        imported_factory("own_models.number")


def test_lists_switches_and_hyphens(monkeypatch):
    found = {}

    def command(
        numbers: list[int],
        class_ids: list[int] | None = None,
        tile_size: float = 1.0,
        all: bool = False,
        none: bool = False,
    ) -> None:
        """Tests.

        Args:
            numbers: Numbers.
            class_ids: Ids.
            tile_size: Size.
            all: A switch.
            none: Another one.
        """
        found.update(numbers=numbers, class_ids=class_ids, tile_size=tile_size, all=all, none=none)

    monkeypatch.setattr(
        sys, "argv", ["x", "1", "2", "--class-ids", "3", "4", "--tile-size=2", "--all"]
    )
    call(command, "numbers")
    assert found == {
        "numbers": [1, 2],
        "class_ids": [3, 4],
        "tile_size": 2.0,
        "all": True,
        "none": False,
    }
