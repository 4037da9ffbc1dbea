"""Export to ONNX: deformable image convolutions become the standard operator DeformConv.

This requires optional dependencies: ``pip install 'kpdeform[onnx]'``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kpdeform._optional import require

OPSET = 19  # The first opset with DeformConv.


def export(model: nn.Module, args: tuple[Tensor, ...], **options: Any) -> torch.onnx.ONNXProgram:
    """Exports a model with deformable image convolutions.

    Args:
        model: A model that contains :class:`kpdeform.nn.DeformConv2d` layers or calls
            :func:`kpdeform.ops.deform_conv2d`. Put it in eval mode first.
        args: Example inputs, with which the model is traced.
        **options: Further arguments of :func:`torch.onnx.export`, such as ``dynamic_shapes``.

    Returns:
        The ONNX program; its method ``save(path)`` writes it to a file.

    Raises:
        ImportError: onnxscript is not installed.
        NotImplementedError: The model has layers for point clouds, or others that ONNX has no
            operator for. The message names the op and what to use instead.

    Example:
        >>> from kpdeform import nn, onnx
        >>> layer = nn.DeformConv2d(4, 8, 3, padding=1).eval()
        >>> program = onnx.export(layer, (torch.rand(1, 4, 16, 16),))  # doctest: +SKIP
        >>> program.save("layer.onnx")  # doctest: +SKIP
    """
    table = {
        torch.ops.kpdeform.deform_conv2d.default: _translation(depthwise=False),
        torch.ops.kpdeform.deform_conv2d_depthwise.default: _translation(depthwise=True),
        **options.pop("custom_translation_table", {}),
    }
    options = {"opset_version": OPSET, "verbose": False, **options}
    try:
        program = torch.onnx.export(
            model, args, dynamo=True, custom_translation_table=table, **options
        )
    except torch.onnx.OnnxExporterError as error:
        if isinstance(error.__cause__, NotImplementedError):  # An op that ONNX does not have.
            raise error.__cause__ from None
        raise
    assert program is not None  # None only when a file name is passed.
    program.optimize()  # A second pass: only now do inverse transposes become adjacent.
    return program


def _translation(depthwise: bool) -> Callable[..., Any]:
    """Returns the ONNX translation of a native op.

    Native ops take channels-last tensors and ONNX takes channels-first tensors, so the translation
    inserts transposes.
    """
    op = require("onnxscript", "onnx").opset19

    def translate(
        input: Any,
        offset: Any,
        weight: Any,
        mask: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> Any:
        kernel = [int(n) for n in weight.shape[:2]]
        channels = int(input.shape[3])
        if depthwise:
            weight = op.Unsqueeze(op.Transpose(weight, perm=[2, 0, 1]), op.Constant(value_ints=[1]))
        group = channels if depthwise else channels // int(weight.shape[2])
        out = op.DeformConv(
            op.Transpose(input, perm=[0, 3, 1, 2]),
            weight if depthwise else op.Transpose(weight, perm=[3, 2, 0, 1]),
            channels_first(offset),
            None,
            None if mask is None else channels_first(mask),
            kernel_shape=kernel,
            strides=[int(n) for n in stride],
            pads=[int(n) for n in padding],
            dilations=[int(n) for n in dilation],
            group=group,
            offset_group=int(offset.shape[3]),
        )
        return op.Transpose(out, perm=[0, 2, 3, 1])

    def channels_first(coordinates: Any) -> Any:
        flat = op.Reshape(coordinates, op.Constant(value_ints=[0, 0, 0, -1]))
        return op.Transpose(flat, perm=[0, 3, 1, 2])

    return translate
