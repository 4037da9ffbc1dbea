"""A checkpoint is data: it runs nothing, and every entry is checked before it is used."""

import copy
import pickle
import sys
from dataclasses import asdict

import pytest
import torch

from kpdeform.inference import Predictor, Tiles
from kpdeform.inference.record import make_record
from kpdeform.models import ModelConfig, kpfcnn_small, load_weights

ARGUMENTS = {"width": 4, "in_channels": 2, "num_classes": 2, "cell_size": 0.5}


@pytest.fixture
def checkpoint():
    config = ModelConfig("kpdeform.models.kpfcnn_small", ARGUMENTS)
    model = config.build()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {"class_weights": torch.ones(2), "confusion.confmat": torch.zeros(2, 2)}
    data = {
        "name": "toy",
        "licence": "CC0-1.0",
        "source": "",
        "features": ["ones", "height"],
        "class_names": ["low", "high"],
        "class_colors": [[0, 0, 0], [255, 0, 0]],
        "class_ids": [2, 6],
        "feature_scales": {"intensity": 65535.0},
        "scale": 1.0,
        "unit": "metre",
        "max_neighbors": None,
        "tiles": asdict(Tiles(6.0)),
    }
    return {
        "state_dict": state,
        "kpdeform": make_record(model, config, data, {"val/mean_iou": 0.5}),
    }


def save(content, folder):
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_a_right_one_is_loaded(checkpoint, tmp_path):
    predictor = Predictor.load(save(checkpoint, tmp_path), "cpu")
    assert predictor.class_ids == (2, 6)


@pytest.mark.parametrize("wrong", [None, 3, ["metre"]])
def test_the_unit_is_a_text(checkpoint, tmp_path, wrong):
    checkpoint["kpdeform"]["data"]["unit"] = wrong
    with pytest.raises(ValueError, match="the record of the data: unit must be a text"):
        Predictor.load(save(checkpoint, tmp_path), "cpu")


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "antigravity", "builtins.eval"])
def test_a_factory_of_a_file_is_not_imported(name, checkpoint, tmp_path):
    checkpoint["kpdeform"]["model"] = {
        "factory": name,
        "arguments": {"command": f"touch {tmp_path}/ran"},
    }
    before = set(sys.modules)
    with pytest.raises(ValueError, match=rf"last.ckpt: .*{name}.*factory="):
        Predictor.load(save(checkpoint, tmp_path), "cpu")
    assert set(sys.modules) == before and not (tmp_path / "ran").exists()


def test_a_factory_of_the_caller(checkpoint, tmp_path):
    checkpoint["kpdeform"]["model"]["factory"] = "my_package.my_model"
    path = save(checkpoint, tmp_path)
    with pytest.raises(ValueError, match=r"my_package.my_model.*--factory my_package.my_model"):
        Predictor.load(path, "cpu")
    assert Predictor.load(path, "cpu", factory=kpfcnn_small).features == ("ones", "height")


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_pickle_is_refused_by_name(plain, tmp_path):
    content = {"kpdeform": Command(tmp_path / "ran")}
    if plain:
        (tmp_path / "last.ckpt").write_bytes(pickle.dumps(content, 2))
    else:
        save(content, tmp_path)
    for load in (Predictor.load, lambda path: load_weights(torch.nn.Linear(1, 1), path)):
        with pytest.raises(ValueError, match=r"last\.ckpt holds Python objects .*mkdir") as raised:
            load(tmp_path / "last.ckpt")
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()


WRONG = [None, 3, -1.5, "word", [], [3], ["a"], {}, {"a": "b"}, [[1]], torch.ones(2), True]


def wrong_entries():
    yield from ((), ("kpdeform",), ("state_dict",))
    yield from (
        ("kpdeform", name) for name in ("format", "version", "model", "pyramid", "data", "scores")
    )
    yield from (("kpdeform", "model", name) for name in ("factory", "arguments"))
    yield from (("kpdeform", "model", "arguments", name) for name in ARGUMENTS)
    yield from (
        ("kpdeform", "data", name)
        for name in (
            "features", "class_names", "class_colors", "class_ids", "max_neighbors", "tiles",
            "feature_scales", "name", "licence", "source",
        )
    )  # fmt: skip
    yield from (("kpdeform", "data", "tiles", name) for name in ("size", "overlap", "dimensions"))
    yield ("state_dict", "model.head.1.linear.weight")


@pytest.mark.parametrize("path", [*wrong_entries()], ids=lambda path: ".".join(path) or "all")
def test_an_entry_of_another_type_is_a_one_line_error(path, checkpoint, tmp_path):
    changed = [*WRONG] if not path else []
    for value in WRONG if path else []:
        broken = copy.deepcopy(checkpoint)
        place = broken
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        changed.append(broken)
    if path:
        missing = copy.deepcopy(checkpoint)
        place = missing
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]
        if path[-1] not in ("overlap", "dimensions"):  # these have defaults
            changed.append(missing)
    refused = 0
    for content in changed:
        try:
            Predictor.load(save(content, tmp_path), "cpu")
        except ValueError as error:
            refused += 1
            assert "last.ckpt" in str(error) and "\n" not in str(error)
    assert refused >= len(changed) - 4  # a few of these values are right for a few entries


def test_nan_weights_are_refused(checkpoint, tmp_path):
    checkpoint["state_dict"]["model.head.1.linear.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"head\.1\.linear\.weight hold NaN"):
        Predictor.load(save(checkpoint, tmp_path), "cpu")


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_damaged_file_is_named(cut, checkpoint, tmp_path):
    path = save(checkpoint, tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged or no checkpoint"):
        Predictor.load(path, "cpu")


def test_a_folder_and_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder with neither model\.json nor best\.ckpt"):
        Predictor.load(tmp_path, "cpu")
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt is not there"):
        Predictor.load(tmp_path / "none.ckpt", "cpu")


def test_load_weights_reads_it(checkpoint, tmp_path):
    """The task's class weights and counts are left alone; another number of classes is possible."""
    path = save(checkpoint, tmp_path)
    model = kpfcnn_small(**ARGUMENTS)
    report = load_weights(model, path)
    assert report.source == "kpdeform"
    for name, value in model.state_dict().items():
        assert torch.equal(value, checkpoint["state_dict"][f"model.{name}"])
    other = kpfcnn_small(**{**ARGUMENTS, "num_classes": 5})
    report = load_weights(other, path, ignore=["head.1"])
    assert all(name.startswith("head.1") for name in report.ignored) and report.ignored
    with pytest.raises(ValueError, match=r"other shape: head\.1\.linear\.weight"):
        load_weights(other, path)
