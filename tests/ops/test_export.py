"""Layers leave PyTorch: torch.export, and ONNX's DeformConv; ONNX refuses other ops by name."""

import pytest
import torch

from kpdeform import nn, ops
from tests.tolerances import RELATIVE, assert_close


@pytest.mark.parametrize("modulated", [False, True])
def test_image_layer_exports_with_a_free_size(modulated):
    layer = nn.DeformConv2d(4, 6, 3, padding=1, offset_groups=2, modulated=modulated)
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.1)
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(layer, (torch.randn(5, 4, 9, 10),), dynamic_shapes=[free])
    for shape in ((5, 4, 9, 10), (3, 4, 17, 12)):
        x = torch.randn(shape)
        assert torch.equal(program.module()(x), layer(x))
    assert any(n.target is torch.ops.kpdeform.deform_conv2d.default for n in program.graph.nodes)


def test_point_layer_exports_with_free_numbers_of_points():
    layer = nn.DeformKPConv(4, 6, radius=0.4, sigma=0.2, modulated=True)
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.1)

    def inputs(queries: int, points: int):
        p = torch.rand(points, 3)
        q = p[:queries]
        return q, p, ops.radius_neighbors(q, p, 0.4, max_neighbors=8), torch.randn(points, 4)

    m, n = torch.export.Dim("m"), torch.export.Dim("n")
    free = ({0: m}, {0: n}, {0: m}, {0: n})
    args = inputs(50, 80)
    program = torch.export.export(layer, args, dynamic_shapes=free)
    for case in (args, inputs(31, 44)):
        assert torch.equal(program.module()(*case), layer(*case))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": (2, 0, 1, 3), "modulated": True, "offset_groups": 2, "stride": (2, 1)},
        {"kernel_size": (2, 3), "dilation": (1, 2), "groups": 2, "bias": False},
        {"out_channels": 4, "groups": 4, "modulated": True, "padding": "same"},
    ],
    ids=str,
)
def test_image_layer_becomes_a_deform_conv(options):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    from kpdeform.onnx import export

    layer = nn.DeformConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **options})
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.2)
    x = torch.randn(2, 4, 9, 11)
    program = export(layer.eval(), (x,))
    kinds = [node.op_type for node in program.model.graph]
    assert kinds.count("DeformConv") == 1
    assert "Transpose" not in kinds
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(torch.from_numpy(found), layer(x).detach(), 5 * RELATIVE[torch.float32])


POINTS = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
TABLE = ops.radius_neighbors(POINTS, POINTS, 0.4)
WITHOUT_ONNX = {
    "kpconv": (lambda: nn.KPConv(4, 4, radius=0.4, sigma=0.2), (POINTS, POINTS, TABLE)),
    "kpconv_depthwise": (lambda: nn.KPConvD(4, radius=0.4, sigma=0.2), (POINTS, POINTS, TABLE)),
    "neighbor_pool": (lambda: Called(lambda t, f: ops.neighbor_pool(f, t, "max")), (TABLE,)),
    "knn_neighbors": (lambda: Called(lambda p, f: f[ops.knn_neighbors(p, p, 1)[:, 0]]), (POINTS,)),
}


class Called(torch.nn.Module):
    """A module that calls a function."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, *inputs):
        return self.call(*inputs)


@pytest.mark.parametrize("name", WITHOUT_ONNX)
@pytest.mark.parametrize("exporter", ["torch", "kpdeform"])
def test_onnx_refuses_ops_for_points_by_name(name, exporter):
    pytest.importorskip("onnxscript")
    from kpdeform.onnx import export

    make, inputs = WITHOUT_ONNX[name]
    args = (*inputs, torch.rand(20, 4))
    words = rf"{name} has no ONNX operator; save the model with torch\.export\.save instead"
    if exporter == "kpdeform":
        with pytest.raises(NotImplementedError, match=f"^{words}"):
            export(make().eval(), args)
    else:
        with pytest.raises(torch.onnx.OnnxExporterError, match=words):
            torch.onnx.export(make().eval(), args, dynamo=True, verbose=False)
    torch.export.export(make().eval(), args)  # What the message recommends works.
