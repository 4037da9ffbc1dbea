"""TensorBoard gets pictures of the deformed kernels of one validation crop."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from kpdeform.nn import DeformKPConv
from kpdeform.train import SceneDataModule, SegmentationTask, kernel_pictures
from tests.toy import TINY


@pytest.fixture(scope="module")
def crops(toy):
    return SceneDataModule(toy, 0.25, radius=2.0, max_points=1500)


@pytest.fixture
def validation(crops, tmp_path):
    """A trainer and a task, as a callback gets them after a validation."""
    model = TINY.complete(in_channels=2, num_classes=2, cell_size=0.25).build(None)
    crops.pyramid_spec = model.pyramid_spec
    board = TensorBoardLogger(tmp_path)
    trainer = SimpleNamespace(loggers=[board], is_global_zero=True, datamodule=crops, global_step=3)
    return trainer, SegmentationTask(model, crops.class_names)


@pytest.mark.usefixtures("offscreen")
def test_pictures_show_the_same_places_from_the_same_side(validation):
    trainer, task = validation
    pictures = kernel_pictures.KernelPictures()
    pictures.on_validation_end(trainer, task)
    before = pictures._scenes
    (layer,) = (module for module in task.modules() if isinstance(module, DeformKPConv))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    random = torch.get_rng_state()
    pictures.on_validation_end(trainer, task)
    assert len(before) == 3
    for old, new in zip(before, pictures._scenes, strict=True):
        np.testing.assert_array_equal(old.query, new.query)
        assert old.camera is new.camera and old.title == new.title
        assert abs(old.deformed - new.deformed).max() > 1e-3
    assert torch.equal(random, torch.get_rng_state())
    again = kernel_pictures.KernelPictures()  # of a run that was resumed
    again.on_validation_end(trainer, task)
    for old, new in zip(before, again._scenes, strict=True):
        np.testing.assert_array_equal(old.query, new.query)


def test_without_open3d_a_run_says_so_once_and_goes_on(validation, monkeypatch):
    def missing(*arguments):
        raise ImportError("this needs open3d, which is not installed")

    monkeypatch.setattr(kernel_pictures, "contact_figure", missing)
    pictures = kernel_pictures.KernelPictures()
    with pytest.warns(UserWarning, match="TensorBoard gets no pictures of kernels: .* open3d"):
        pictures.on_validation_end(*validation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.on_validation_end(*validation)


def test_models_without_deformable_layers_have_no_pictures(validation, monkeypatch):
    trainer, task = validation
    task.model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(kernel_pictures, "capture_deformations", None)
    kernel_pictures.KernelPictures().on_validation_end(trainer, task)
