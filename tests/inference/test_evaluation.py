import numpy as np
import pytest

from kpdeform.data import Scene
from kpdeform.inference import Predictor, write_prediction
from tests.toy import TINY


@pytest.mark.parametrize("suffix", [".ply", ".laz"])
def test_class_ids_that_do_not_fit_are_refused(tmp_path, suffix):
    model = TINY.complete(in_channels=1, num_classes=2, cell_size=0.5).build()
    colors = [(0, 0, 0)] * 2
    predictor = Predictor(model, model.pyramid_spec, ("ones",), ("a", "b"), colors, (1, 256))
    scene = Scene.from_cloud(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"classes 0 to 255, but class_ids are \[1, 256\]"):
        write_prediction(tmp_path / f"a{suffix}", scene, np.array([0, 1]), predictor)
    assert not list(tmp_path.iterdir())
