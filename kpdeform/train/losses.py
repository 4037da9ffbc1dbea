"""Losses that are used in addition to the cross entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""The focal loss, a cross entropy in which rows that are predicted well count less.

    .. math:: L_i = -(1 - p_{i y_i})^\gamma \, w_{y_i} \log p_{i y_i}

    Args:
        logits: ``(N, classes)`` float.
        labels: Class numbers, ``(N,)`` int64; rows with -1 are ignored.
        gamma: Exponent, >= 0; with 0 it is the cross entropy.
        class_weights: w, ``(classes,)``; None for ones.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1]; it changes
            the cross entropy and not the factor in front of it.

    Returns:
        One loss per row, ``(N,)`` float32; 0 for ignored rows.

    Source: Lin et al. 2017, arXiv:1708.02002, Eq. 5.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> focal_loss(logits, torch.tensor([0, 1]), gamma=1.0)
        tensor([0.3466, 0.0151])
    """
    logits = logits.float()
    entropy = F.cross_entropy(
        logits,
        labels,
        class_weights,
        ignore_index=-1,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if gamma == 0:
        return entropy
    right = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    # right is log p, so -expm1(right) is 1 - p without the rounding error of the subtraction. The
    # clamp keeps the gradient of the power finite at p = 1.
    return entropy * (-right.expm1()).clamp(min=1e-12) ** gamma


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    r"""The Lovász-Softmax loss, a differentiable surrogate of 1 - mean IoU.

    Per class c that occurs, the errors :math:`e_i = |[y_i = c] - p_{ic}|` are sorted in descending
    order and weighted by how much each adds to the Jaccard loss of the errors before it.

    Args:
        logits: ``(N, classes)`` float.
        labels: Class numbers, ``(N,)`` int64; rows with -1 are ignored.

    Returns:
        Scalar in [0, 1], the mean over the classes that occur; 0 if no row is labelled.

    Source: Berman et al. 2018, arXiv:1705.08790, Algorithm 1 and Eq. 9-11.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, 0, 1, -1])
        >>> right = 1000.0 * F.one_hot(labels.clamp(min=0), 2)
        >>> lovasz_softmax(right, labels), lovasz_softmax(-right, labels)
        (tensor(0.), tensor(1.))
    """
    labelled = labels >= 0
    probabilities = logits[labelled].float().softmax(1)  # (P, classes)
    truth = F.one_hot(labels[labelled], logits.shape[1]).to(probabilities)
    errors, order = (truth - probabilities).abs().sort(dim=0, descending=True, stable=True)
    losses = (errors * _jaccard_steps(truth.gather(0, order))).sum(0)
    occurs = truth.sum(0) > 0
    return (losses * occurs).sum() / occurs.sum().clamp(min=1)


def _jaccard_steps(truth: Tensor) -> Tensor:
    """The increase of the Jaccard loss by each row, if all rows up to it are wrong.

    Args:
        truth: 1 where a row has the class, ``(P, classes)``, sorted by descending error.

    Returns:
        ``(P, classes)``.
    """
    total = truth.sum(0)
    intersection = total - truth.cumsum(0)
    union = total + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union.clamp(min=1)
    return jaccard.diff(dim=0, prepend=jaccard.new_zeros(1, truth.shape[1]))
