"""What a data module takes from the data set, and what it refuses when it is set up."""

import numpy as np
import pytest

from kpdeform.data import DatasetInfo, SceneWriter
from kpdeform.train import SceneDataModule, ShapeDataModule

INFO = DatasetInfo(
    "toy",
    ("ground", "tree"),
    class_ids=(2, 5),
    feature_names=("intensity",),
    feature_scales={"intensity": 2000},
    scale=0.3048,
)
POINTS = np.random.default_rng(0).random((300, 3)) * 5
LABELS = (POINTS[:, 2] > 1).astype(int)
FEATURES = np.ones((300, 1), np.float32)


def write(root, **scenes):
    """``train_a=True`` is a scene a of the split train with labels."""
    with SceneWriter(root, INFO) as writer:
        for key, labelled in scenes.items():
            split, name = key.split("_")
            writer.write(split, name, POINTS, LABELS if labelled else None, FEATURES)
    return root


def test_the_record_holds_what_preparation_did(tmp_path):
    write(tmp_path, train_a=True)
    record = SceneDataModule(tmp_path, 0.5, features=("intensity",)).record()
    assert record["class_ids"] == [2, 5]
    assert record["feature_scales"] == {"intensity": 2000}
    assert record["scale"] == 0.3048
    assert SceneDataModule(tmp_path, 0.5, class_ids=[7, 8]).record()["class_ids"] == [7, 8]


def test_a_scale_that_disagrees_with_the_data_set_is_refused(tmp_path):
    write(tmp_path, train_a=True)
    SceneDataModule(tmp_path, 0.5, feature_scales={"intensity": 2000})
    with pytest.raises(ValueError, match=r"intensity was divided by 2000 .* got 255"):
        SceneDataModule(tmp_path, 0.5, feature_scales={"intensity": 255})


@pytest.mark.parametrize("module", [SceneDataModule, ShapeDataModule])
def test_training_scenes_without_labels_are_named(tmp_path, module):
    write(tmp_path, train_a=True, train_b=False, train_c=False)
    with pytest.raises(ValueError, match=r"2 of 3 scenes of the split 'train' .*: b, c; prepare"):
        module(tmp_path, 0.5)


def test_a_split_that_is_not_there_is_named(tmp_path):
    write(tmp_path, val_a=True)
    with pytest.raises(ValueError, match=r"no scenes in the split 'train', there are \['val'\]"):
        SceneDataModule(tmp_path, 0.5)


def test_validation_scenes_without_labels_are_left_out_with_a_warning(tmp_path):
    write(tmp_path / "some", train_a=True, val_b=False, val_c=True)
    with pytest.warns(UserWarning, match=r"1 of 2 scenes of the split 'val' .* left out: b"):
        data = SceneDataModule(tmp_path / "some", 0.5)
    assert data.val_batches().scene_names == ("c",)
    write(tmp_path / "all", train_a=True, val_b=False)
    with pytest.warns(UserWarning, match="left out: b"):
        assert SceneDataModule(tmp_path / "all", 0.5).val_batches() is None
