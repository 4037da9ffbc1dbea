import numpy as np
import pytest
import torch

from kpdeform.inference import confusion_matrix, scores


def oracle(labels, predictions, num_classes):
    """Everything counted point by point."""
    confusion = np.zeros((num_classes, num_classes), int)
    for label, prediction in zip(labels, predictions, strict=True):
        if 0 <= label < num_classes:
            confusion[label, prediction] += 1
    iou, accuracy = [], []
    for c in range(num_classes):
        union = confusion[c].sum() + confusion[:, c].sum() - confusion[c, c]
        iou.append(confusion[c, c] / union if confusion[c].sum() else np.nan)
        accuracy.append(confusion[c, c] / confusion[c].sum() if confusion[c].sum() else np.nan)
    return confusion, np.array(iou), np.array(accuracy)


@pytest.mark.parametrize("ignored", [-1, 255])
def test_scores_agree_with_counting_by_hand(ignored):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, ignored], 500)  # class 3 is only predicted, 5 never occurs
    predictions = np.where(rng.random(500) < 0.6, labels % 6, rng.integers(0, 5, 500))
    predictions = np.clip(predictions, 0, 4)
    confusion, iou, accuracy = oracle(labels, predictions, 6)
    ours = confusion_matrix(labels, predictions, 6)
    assert np.array_equal(ours.numpy(), confusion)
    result = scores(ours)
    np.testing.assert_allclose(result.iou.numpy(), iou)
    np.testing.assert_allclose(result.accuracy.numpy(), accuracy)
    assert result.iou[3].isnan() and result.iou[5].isnan() and result.accuracy[3].isnan()
    assert result.mean_iou == pytest.approx(np.nanmean(iou))
    assert result.mean_accuracy == pytest.approx(np.nanmean(accuracy))
    assert result.overall_accuracy == pytest.approx(np.trace(confusion) / confusion.sum())


def test_scores_as_json_have_no_nan():
    content = scores(torch.tensor([[3, 0], [0, 0]])).as_dict(["a", "b"])
    assert content["iou"] == {"a": 1.0, "b": None} and content["mean_iou"] == 1.0


def test_scores_refuse_what_is_not_square():
    with pytest.raises(ValueError, match="square"):
        scores(torch.zeros(2, 3))
