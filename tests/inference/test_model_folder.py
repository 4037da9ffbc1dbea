"""A model folder holds the very same model, and its files are checked before they are used."""

import copy
import json
import os
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
import safetensors.torch
import torch

from kpdeform.inference import Predictor, Tiles
from kpdeform.inference.model_files import RECORD, WEIGHTS
from kpdeform.inference.record import make_record
from kpdeform.models import ModelConfig, kpfcnn_small
from tests.toy import TINY

GIVEN = {"in_channels": 2, "num_classes": 2, "cell_size": 0.5}
CONFIG = ModelConfig("kpfcnn_small", {"width": 4, **GIVEN})
DATA = {
    "name": "toy",
    "licence": "CC0-1.0",
    "source": "https://example.org",
    "features": ["ones", "intensity"],
    "class_names": ["low", "Gebäude"],
    "class_colors": [[0, 0, 0], [255, 0, 0]],
    "class_ids": [2, 6],
    "feature_scales": {"intensity": 65535.0},
    "optional_features": ["intensity"],
    "scale": 0.001,
    "unit": "metre",
    "max_neighbors": None,
    "tiles": Tiles(6.0).as_record(),
}


def predictor_of(config=CONFIG, **data):
    model = config.build()
    limits = [20] * model.pyramid_spec.num_levels
    record = make_record(model, config, {**DATA, "max_neighbors": limits, **data}, {"iou": 0.5})
    return Predictor.from_record(model, record)


@pytest.fixture
def folder(tmp_path):
    predictor_of().save(tmp_path / "model")
    return tmp_path / "model"


def change(folder, edit):
    """Rewrites model.json after ``edit`` has changed its content."""
    record = json.loads((folder / RECORD).read_text())
    edit(record)
    (folder / RECORD).write_text(json.dumps(record))


def put_weights(folder, content: bytes):
    """Replaces the weights by others that the record belongs to."""
    (folder / WEIGHTS).write_bytes(content)
    change(folder, lambda record: record.update(sha256=sha256(content).hexdigest()))


def refused(path):
    with pytest.raises(ValueError) as raised:
        Predictor.load(path, "cpu")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("size", [6.0, float("inf")])
@pytest.mark.parametrize(
    "config", [CONFIG, TINY.complete(**GIVEN), ModelConfig("kpconvx_s").complete(**GIVEN)]
)
def test_the_same_bits_come_back(config, size, tmp_path):
    before = predictor_of(config, tiles=Tiles(size, 0.3, 3).as_record())
    before.save(tmp_path / "a")
    after = Predictor.load(tmp_path / "a", "cpu")
    for name, value in before.model.state_dict().items():
        other = after.model.state_dict()[name]
        assert value.dtype == other.dtype and torch.equal(value, other)
    assert repr(before.model) == repr(after.model) and not after.model.training
    assert replace(before, model=None) == replace(after, model=None)
    after.save(tmp_path / "b")
    for name in (WEIGHTS, RECORD):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [RECORD, WEIGHTS]


def test_the_record_says_what_the_model_is(folder):
    record = json.loads((folder / RECORD).read_text(), parse_constant=pytest.fail)
    assert record["model"] == asdict(CONFIG) and record["scores"] == {"iou": 0.5}
    assert record["pyramid"]["cell_size"] == 0.5 and record["pyramid"]["conv_radius"] > 0
    limits = [20] * record["pyramid"]["num_levels"]
    assert record["data"] == {**DATA, "max_neighbors": limits}


def test_half_the_space_and_the_arithmetic_of_float32(tmp_path):
    before = predictor_of()
    before.save(tmp_path / "whole")
    before.save(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    after = Predictor.load(tmp_path / "half", "cpu")
    parameters = dict(before.model.named_parameters())
    for name, value in before.model.state_dict().items():
        other = after.model.state_dict()[name]
        wanted = value.half().float() if name in parameters else value  # buffers stay as they are
        assert value.dtype == other.dtype and torch.equal(wanted, other)


def test_weights_beyond_float16_are_not_stored_as_such(tmp_path):
    predictor = predictor_of()
    with torch.no_grad():
        next(predictor.model.parameters()).fill_(1e5)
    with pytest.raises(ValueError, match="hold NaN or infinite numbers"):
        predictor.save(tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


def test_a_folder_of_a_run_is_its_best_checkpoint_or_else_its_last(tmp_path):
    for name, licence in (("last", "a"), ("best", "b")):
        model = CONFIG.build()
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        entry = make_record(model, CONFIG, {**DATA, "licence": licence}, {})
        torch.save({"state_dict": state, "kpdeform": entry}, tmp_path / f"{name}.ckpt")
        assert Predictor.load(tmp_path, "cpu").licence == licence
    assert Predictor.load(tmp_path / "last.ckpt", "cpu").licence == "a"
    (tmp_path / "empty").mkdir()
    assert "neither model.json nor best.ckpt nor last.ckpt" in refused(tmp_path / "empty")


def test_saving_keeps_other_files_and_after_an_error_the_old_ones(folder, monkeypatch):
    (folder / "README.md").write_text("a model")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    broken = predictor_of()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    for predictor, words in (
        (broken, "NaN"),
        (replace(predictor_of(), class_ids=(1, True)), "class_ids"),
        (replace(predictor_of(), scores={"iou": float("inf")}), "scores"),
        (replace(predictor_of(), config=None), "config is None"),
        (replace(predictor_of(), config=CONFIG.complete(width=8)), "is not what kpfcnn_small"),
        (replace(predictor_of(), model=CONFIG.build().half()), "float16"),
    ):
        with pytest.raises(ValueError, match=words):
            predictor.save(folder)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before

    def full(path, content):
        raise OSError("no space left")

    # The last of the two files to be written, when the other one is complete.
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        predictor_of().save(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_attributes_that_no_record_has_are_not_lost_without_a_word(tmp_path):
    predictor = predictor_of()
    for module in predictor.model.modules():
        if hasattr(module, "shadow_zero"):
            module.shadow_zero = not module.shadow_zero
    with pytest.raises(ValueError, match="changed afterwards"):
        predictor.save(tmp_path / "model")


def test_a_factory_of_the_caller(tmp_path):
    model = CONFIG.build()
    own = ModelConfig("mine.make", CONFIG.arguments)
    Predictor.from_record(model, make_record(model, own, DATA, {})).save(tmp_path)
    assert "factory=" in refused(tmp_path)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        Predictor.from_record(model, make_record(model, own, DATA, {})).save(tmp_path)
    assert Predictor.load(tmp_path, "cpu", factory=kpfcnn_small).class_ids == (2, 6)


def rename(state):
    state["head.1.linear.wait"] = state.pop("head.1.linear.weight")


def double(state):
    state["head.1.linear.weight"] = state["head.1.linear.weight"].double()


def whole_numbers(state):
    state["head.1.linear.weight"] = state["head.1.linear.weight"].long()


def longer(state):
    state["head.1.linear.weight"] = torch.zeros(3, 4)


def nan(state):
    state["head.1.linear.weight"][0] = float("nan")


def more(state):
    state["os.system"] = torch.zeros(1)


def nothing(state):
    state.clear()


@pytest.mark.parametrize("edit", [rename, double, whole_numbers, longer, nan, more, nothing])
def test_weights_of_another_model(edit, folder):
    state = safetensors.torch.load_file(folder / WEIGHTS)
    edit(state)
    put_weights(folder, safetensors.torch.save(state))
    line = refused(folder)
    assert "the weights" in line and ("fit the model" in line) == (edit is not nan)


HUGE = {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 64,
        (10).to_bytes(8, "little") + b"[1, 2, 3] ",
        len(text := json.dumps(HUGE).encode()).to_bytes(8, "little") + text,
        b"PK\x03\x04" + b"\x00" * 100,
    ],
)
def test_damaged_weights(content, folder):
    put_weights(folder, content)
    assert f"{WEIGHTS} is damaged or no safetensors file" in refused(folder)


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_truncated_files_and_those_of_another_model(cut, folder, tmp_path):
    whole = {name: (folder / name).read_bytes() for name in (WEIGHTS, RECORD)}
    (folder / WEIGHTS).write_bytes(whole[WEIGHTS][:cut])
    assert "is damaged, or belongs to another model" in refused(folder)
    (folder / WEIGHTS).write_bytes(whole[WEIGHTS])
    (folder / RECORD).write_bytes(whole[RECORD][: cut - 1 if cut < 0 else cut])
    assert RECORD in refused(folder)
    predictor_of().save(tmp_path / "other")
    (folder / RECORD).write_bytes((tmp_path / "other" / RECORD).read_bytes())
    assert "is damaged, or belongs to another model" in refused(folder)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3", "{}", '{"format": 1}', "[" * 100_000, '{"a": NaN}', "\xff\xfe",
        '{"format": 1, "format": 1}', '{"n": ' + "9" * 5000 + "}",
        "!!python/object/apply:os.system [true]",
    ],
)  # fmt: skip
def test_a_record_that_is_none(text, folder):
    (folder / RECORD).write_bytes(text.encode("latin-1"))
    refused(folder)


def test_a_huge_record_is_not_read(folder):
    with (folder / RECORD).open("r+b") as file:
        file.truncate(2**40)
    assert "the limit is" in refused(folder)


@pytest.mark.parametrize("name", [WEIGHTS, RECORD])
def test_links_and_missing_files(name, folder, tmp_path):
    (folder / name).rename(tmp_path / name)
    if name == WEIGHTS:
        assert f"no file {name}" in refused(folder)
    (folder / name).symlink_to(tmp_path / name)
    assert "is a link" in refused(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"no file {name}" in refused(folder)


WRONG = [None, 3, -1.5, "word", "two\nlines", [], [3], ["a"], {}, {"a": "b"}, [[1]], True, 1e308]
ENTRIES = [
    *((name,) for name in ("format", "version", "model", "pyramid", "data", "scores", "sha256")),
    *(("model", name) for name in ("factory", "arguments")),
    *(("model", "arguments", name) for name in CONFIG.arguments),
    *(("pyramid", name) for name in make_record(CONFIG.build(), CONFIG, DATA, {})["pyramid"]),
    *(("data", name) for name in DATA),
    *(("data", "tiles", name) for name in ("size", "overlap", "dimensions")),
    ("scores", "iou"),
]
# Entries for which one of these values is right, or that may be missing.
LOOSE = {
    "name", "licence", "source", "unit", "version", "scale", "scores", "iou", "size",
    "dimensions", "overlap", "feature_scales", "optional_features", "max_neighbors",
}  # fmt: skip


@pytest.mark.parametrize("path", ENTRIES, ids=".".join)
def test_an_entry_of_another_type_is_a_one_line_error(path, folder):
    whole = json.loads((folder / RECORD).read_text())
    for value in ["missing", *WRONG]:
        record = copy.deepcopy(whole)
        place = record
        for name in path[:-1]:
            place = place[name]
        if value == place[path[-1]] and type(value) is type(place[path[-1]]):
            continue
        if value == "missing":
            del place[path[-1]]
        else:
            place[path[-1]] = value
        (folder / RECORD).write_text(json.dumps(record))
        try:
            Predictor.load(folder, "cpu")
        except ValueError as error:
            assert RECORD in str(error) and "\n" not in str(error)
        else:
            assert path[-1] in LOOSE, value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 4_000_000}, "fit the model"),
        ({"width": 2**62}, "model kpfcnn_small"),
        ({"width": 2**70}, "model kpfcnn_small"),
        ({"num_classes": 10**12}, "num_classes is 1000000000000"),
        ({"cell_size": -1}, "model kpfcnn_small"),
        ({"path": "/etc/passwd"}, "model kpfcnn_small"),
        ({"two\nlines": 1}, "a mapping of names"),
        ({"in_channels": 3}, "features has 2 entries, but the model's in_channels is 3"),
        ({"num_classes": 3}, "class_names has 2 entries, but the model's num_classes is 3"),
    ],
)
def test_sizes_of_a_record_take_no_memory(arguments, words, folder):
    change(folder, lambda record: record["model"]["arguments"].update(arguments))
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("KPNeXt", {"blocks": [10**9]}),
        ("KPNeXt", {"blocks": [10**30, 1]}),
        ("KPNeXt", {"shells": [1, 10**9]}),
        ("KPFCNN.from_architecture", {"names": ["simple"] + ["resnetb_strided"] * 3000}),
        ("KPFCNN.from_architecture", {"names": ["simple"], "kernel_size": 10**9}),
    ],
)
def test_counts_of_a_record_take_no_time(factory, arguments, folder):
    model = {"factory": factory, "arguments": {**GIVEN, **arguments}}
    change(folder, lambda record: record.update(model=model))
    refused(folder)


@pytest.mark.parametrize("factory", ["os.system", "builtins.eval", "antigravity.fly"])
def test_a_record_names_no_code(factory, folder):
    change(folder, lambda record: record["model"].update(factory=factory))
    assert "none of kpdeform's own" in refused(folder)


def test_a_later_format_and_other_radii_are_named(folder):
    change(folder, lambda record: record["pyramid"].update(conv_radius=9.0))
    assert "conv_radius of the pyramid is 9.0, but the model has" in refused(folder)
    change(folder, lambda record: record.update(format=2))
    assert "format 2" in refused(folder) and "install a newer one" in refused(folder)


@pytest.fixture
def hub(monkeypatch):
    """huggingface_hub, whose download takes a local folder."""
    return pytest.importorskip("huggingface_hub")


def test_the_hub(hub, folder, tmp_path, monkeypatch):
    """The cache of the hub holds links to files that are named by their content."""
    (tmp_path / "snapshot").mkdir()
    for name in (WEIGHTS, RECORD):
        (folder / name).rename(tmp_path / f"blob-{name[-4:]}")
        os.symlink(f"../blob-{name[-4:]}", tmp_path / "snapshot" / name)
    asked = []

    def download(name, allow_patterns):
        asked.append((name, sorted(allow_patterns)))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert Predictor.load("hf://owner/name", "cpu").class_ids == (2, 6)
    assert asked == [("owner/name", [RECORD, WEIGHTS])]
    for address in ("hf://", "hf://owner", "hf://owner/a/b", "hf://../../etc"):
        refused(address)

    def fails(name, allow_patterns):
        raise OSError("404: no such repository\nlook at the address")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(OSError, match=r"hf://owner/name cannot .*: no such repository$"):
        Predictor.load("hf://owner/name", "cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", "boxes"),
        ("task", 3),
        ("transforms", 3),
        ("transforms", ["Jitter"]),
        ("transforms", [{"name": "Jitter"}]),
        ("transforms", [{"name": "Jitter", "arguments": {"sigma": -1}}]),
        ("transforms", [{"name": "Jitter", "arguments": {"width": 1}}]),
        ("transforms", [{"name": "os.system", "arguments": {}}]),
    ],
)
def test_wrong_entries_of_models_of_shapes_are_named(name, value):
    with pytest.raises(ValueError, match=f"the record of the data: {name} must be"):
        predictor_of(**{name: value})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"task": "parts"}, "the record of the data lacks categories"),
        ({"task": "parts", "categories": {"house": ["low"]}}, "every class must be a part of"),
        ({"task": "parts", "categories": 3}, "the record of the data: categories: must be a map"),
    ],
)
def test_categories_of_a_model_of_parts_are_checked(data, words):
    with pytest.raises(ValueError, match=words):
        predictor_of(**data)
    found = predictor_of(task="parts", categories={"house": ["low", "Gebäude"]})
    assert list(found.categories) == ["house"]
