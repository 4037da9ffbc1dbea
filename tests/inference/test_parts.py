"""Parts of shapes, against what ShapeNetPart's protocol says in words."""

import numpy as np
import pytest
import torch

from kpdeform.data import DatasetInfo
from kpdeform.inference import confusion_matrix
from kpdeform.inference.parts import Parts

CATEGORIES = {"mug": ("handle", "cup"), "table": ("top", "leg", "drawer")}
NAMES = ("top", "handle", "leg", "cup", "drawer")


@pytest.fixture
def parts():
    return Parts(CATEGORIES, NAMES)


def iou_in_words(labels, predictions, classes):
    """Mean over the category's parts; a part that is nowhere counts 1."""
    values = []
    for number in classes:
        either = np.sum((labels == number) | (predictions == number))
        both = np.sum((labels == number) & (predictions == number))
        values.append(both / either if either else 1.0)
    return np.mean(values)


def test_the_iou_of_a_shape_is_the_mean_over_the_parts_of_its_category(parts):
    rng = np.random.default_rng(0)
    for category, classes in enumerate([[1, 3], [0, 2, 4]]):
        assert parts.classes[category] == classes
        for _ in range(20):
            labels, found = rng.choice(classes, (2, 5))
            expected = iou_in_words(labels, found, classes)
            assert parts.mean_iou(confusion_matrix(labels, found, 5), category) == pytest.approx(
                expected
            )


def test_absent_parts_count_one(parts):
    labels = np.array([0, 0, 0])
    assert parts.mean_iou(confusion_matrix(labels, labels, 5), 1) == 1
    found = np.array([0, 0, 2])  # 2/3 of top, 0 of leg, and no drawer anywhere
    assert parts.mean_iou(confusion_matrix(labels, found, 5), 1) == pytest.approx(5 / 9)


def test_labels_tell_the_category_and_others_logits_do_not_count(parts):
    labels = torch.tensor([-1, 3, 1, 2, 0, -1, -1])
    lengths = torch.tensor([3, 2, 0, 2])
    categories = parts.of_shapes(labels, lengths)
    assert categories.tolist() == [0, 1, -1, -1]
    logits = torch.randn(7, 5, requires_grad=True)
    restricted = parts.restrict(logits, categories, lengths)
    finite = restricted.isfinite()
    assert finite[:3].nonzero()[:, 1].tolist() == 3 * [1, 3]
    assert finite[3:5].nonzero()[:, 1].tolist() == 2 * [0, 2, 4]
    assert finite[5:].all()
    assert torch.equal(restricted[finite], logits[finite])
    loss = torch.nn.functional.cross_entropy(restricted, labels, ignore_index=-1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and (gradient[labels < 0] == 0).all()
    assert ((gradient != 0) == (finite & (labels >= 0)[:, None])).all()


def test_a_shape_of_two_categories_is_refused(parts):
    assert parts.of_shape("a", torch.tensor([-1, 0, 4])) == 1
    assert parts.of_shape("a", torch.tensor([-1, -1])) == -1
    assert parts.of_shape("a", None) == -1
    with pytest.raises(
        ValueError, match=r"scene a: its points have parts of several .* mug, table"
    ):
        parts.of_shape("a", torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ({"mug": ("handle", "cup")}, "every class must be a part of exactly one category"),
        ({**CATEGORIES, "pot": ("handle",)}, "every class must be a part of exactly one category"),
        ({**CATEGORIES, "pot": ("lid",)}, "every class must be a part of exactly one category"),
        ({"mug": ("cup", "cup")}, "cup is there twice"),
        ({"mug": 3}, "categories: mug: must be a list, got 3"),
        ([], "categories: must be a mapping"),
    ],
)
def test_categories_that_do_not_fit_the_classes_are_refused(categories, words):
    assert DatasetInfo("a", NAMES, categories=CATEGORIES).categories == CATEGORIES
    with pytest.raises(ValueError, match=words):
        DatasetInfo("a", NAMES, categories=categories)
