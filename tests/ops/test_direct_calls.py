"""``torch.ops.kpdeform.*`` called directly: wrong tables end in an error, not outside of memory."""

import pytest
import torch

from kpdeform import ops

M = N = 50
K, C, OUT = 15, 8, 8
native = torch.ops.kpdeform


def inputs(device):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(N, 3, generator=generator)
    neighbors = ops.radius_neighbors(points, points, 0.4, max_neighbors=9)
    features, kernel = torch.rand(N, C, generator=generator), torch.rand(K, 3, generator=generator)
    return tuple(t.to(device) for t in (points, points, neighbors, features, kernel))


def backward(depthwise, starts, members, device="cpu"):
    queries, points, neighbors, features, kernel = inputs(device)
    weight = torch.ones((K, C) if depthwise else (K, C, OUT), device=device)
    grad = torch.ones(M, C if depthwise else OUT, device=device)
    op = native.kpconv_depthwise_backward if depthwise else native.kpconv_backward
    groups = () if depthwise else (1,)
    flags = (True, False, False, False)
    tensors = (grad, queries, points, neighbors, features, kernel, weight)
    return op(*tensors, 0.3, None, None, 0, 0, *groups, starts, members, *flags)[0]


def strided(tensor):
    return torch.stack([tensor, tensor], 1)[:, 0]


def with_value(tensor, at, value):
    changed = tensor.clone()
    changed[at] = value
    return changed


WRONG_TABLES = {
    "starts far away": lambda s, m: (torch.full_like(s, 2**40).cumsum(0), m),
    "starts overflow": lambda s, m: (torch.full_like(s, 2**62).cumsum(0), m),
    "starts negative": lambda s, m: (s - 5, m),
    "starts fall": lambda s, m: (s.flip(0), m),
    "one start falls": lambda s, m: (with_value(s, 7, 0), m),
    "starts begin late": lambda s, m: (with_value(s, 0, 1), m),
    "starts end late": lambda s, m: (with_value(s, -1, len(m) + 1), m),
    "members beyond the queries": lambda s, m: (s, torch.full_like(m, 2**30)),
    "one member beyond": lambda s, m: (s, with_value(m, 3, M)),
    "one member negative": lambda s, m: (s, with_value(m, 3, -1)),
    "starts too few": lambda s, m: (s[:3], m),
    "starts too many": lambda s, m: (torch.cat([s, s[-1:]]), m),
    "starts empty": lambda s, m: (s[:0], m),
    "members too few": lambda s, m: (s, m[:3]),
    "members empty": lambda s, m: (s, m[:0]),
    "members missing": lambda s, m: (s, None),
    "starts missing": lambda s, m: (None, m),
    "starts int32": lambda s, m: (s.int(), m),
    "starts bfloat16": lambda s, m: (s.bfloat16(), m),
    "members int16": lambda s, m: (s, m.short()),
    "members float": lambda s, m: (s, m.float()),
    "starts of two dimensions": lambda s, m: (s[None], m),
    "members of two dimensions": lambda s, m: (s, m[None]),
}


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_wrong_transposed_table_is_refused(name, depthwise):
    starts, members = native.transpose_neighbors(inputs("cpu")[2], N)
    with pytest.raises(RuntimeError, match=r"starts|members"):
        backward(depthwise, *WRONG_TABLES[name](starts, members))


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
def test_tables_of_any_stride_and_dtype_give_the_same_gradient(depthwise, device):
    starts, members = native.transpose_neighbors(inputs(device)[2], N)
    expected = backward(depthwise, None, None, device)
    assert expected.abs().max() > 0
    for table in [(starts, members), (strided(starts), strided(members)), (starts, members.long())]:
        if device.type == "cpu" or table[1].dtype == torch.int32:
            assert torch.equal(backward(depthwise, *table, device), expected)


POOL = {
    "argmax of another table": lambda a: torch.full_like(a, 9),
    "argmax far away": lambda a: torch.full_like(a, 32767),
    "argmax too short": lambda a: a[:3],
    "argmax int64": lambda a: a.long(),
    "argmax empty": lambda a: a[:0],
    "argmax of one dimension": lambda a: a.flatten(),
}


@pytest.mark.parametrize("name", POOL)
def test_a_wrong_argmax_is_refused(name):
    _, _, neighbors, features, _ = inputs("cpu")
    pooled, argmax = native.neighbor_pool(features, neighbors, 0, False)
    with pytest.raises(RuntimeError, match="argmax"):
        native.neighbor_pool_backward(pooled, neighbors, POOL[name](argmax), N, 0)


def calls():
    """Calls that a kernel must refuse, with the word that the refusal holds."""
    queries, points, neighbors, features, kernel = inputs("cpu")
    weight, grad = torch.ones(K, C, OUT), torch.ones(M, OUT)
    conv = (queries, points, neighbors, features, kernel, weight)
    one = torch.tensor([N])
    image, offset = torch.ones(1, 8, 8, 4), torch.ones(1, 8, 8, 1, 9, 2)
    taps = torch.ones(3, 3, 4, 4)
    walk = ([1, 1], [1, 1, 1, 1], [1, 1])
    rows, boxes = torch.ones(1, 8, 8, 1, 1, 4), torch.tensor([[0.0, 1, 1, 5, 5]])
    norm = (features, torch.ones(C), torch.ones(C))
    nan, huge = float("nan"), 2**31
    return {
        "sigma nan": (lambda: native.kpconv(*conv, nan, None, None, 0, 0, 1), "sigma"),
        "sigma 0": (lambda: native.kpconv(*conv, 0.0, None, None, 0, 0, 1), "sigma"),
        "sigma negative": (lambda: native.kpconv(*conv, -0.1, None, None, 0, 0, 1), "sigma"),
        "sigma huge": (lambda: native.kpconv(*conv, 1e300, None, None, 0, 0, 1), "sigma"),
        "sigma tiny": (lambda: native.kpconv(*conv, 1e-46, None, None, 0, 0, 1), "sigma"),
        "groups 0": (lambda: native.kpconv(*conv, 0.1, None, None, 0, 0, 0), "weight"),
        "groups huge": (lambda: native.kpconv(*conv, 0.1, None, None, 0, 0, 2**62), "weight"),
        "influence": (lambda: native.kpconv(*conv, 0.1, None, None, 7, 0, 1), "influence"),
        "grad": (
            lambda: native.kpconv_backward(
                grad[:3], *conv, 0.1, None, None, 0, 0, 1, None, None, True, True, True, True
            ),
            "grad",
        ),
        "distances grad": (
            lambda: native.kernel_point_distances_backward(
                torch.ones(K, M), queries, points, neighbors, kernel, torch.ones(M, K, 3)
            ),
            "grad",
        ),
        "transpose: points": (lambda: native.transpose_neighbors(neighbors, -1), "num_points"),
        "transpose: too many": (lambda: native.transpose_neighbors(neighbors, 2**62), "num_points"),
        "pool: points": (
            lambda: native.neighbor_pool_backward(grad, neighbors, grad.short(), -1, 0),
            "num_points",
        ),
        "pool: fewer points": (
            lambda: native.neighbor_pool_backward(grad, neighbors, grad.short(), 3, 1),
            "neighbors",
        ),
        "pool: reduce": (lambda: native.neighbor_pool(features, neighbors, 9, False), "reduce"),
        "pool: reduce -1": (lambda: native.neighbor_pool(features, neighbors, -1, False), "reduce"),
        "pool: grad of one dimension": (
            lambda: native.neighbor_pool_backward(grad[0], neighbors, grad.short(), N, 0),
            "grad",
        ),
        "pool: backward reduce": (
            lambda: native.neighbor_pool_backward(grad, neighbors, grad.short(), N, 9),
            "reduce",
        ),
        "search: dtype": (
            lambda: native.radius_neighbors(neighbors, neighbors, 0.1, one, one, None),
            "float32",
        ),
        "search: half": (
            lambda: native.knn_neighbors(points.half(), points.half(), 1, one, one),
            "float32",
        ),
        "search: mixed": (
            lambda: native.radius_neighbors(points.double(), points, 0.1, one, one, None),
            "float",
        ),
        "search: k": (lambda: native.knn_neighbors(points, points, 2**62, one, one), "k "),
        "search: k overflows": (
            lambda: native.knn_neighbors(points, points, 2**63 - 1, one, one),
            "k ",
        ),
        "search: radius": (
            lambda: native.radius_neighbors(points, points, nan, one, one, None),
            "radius",
        ),
        "search: limit": (
            lambda: native.radius_neighbors(points, points, 0.1, one, one, -1),
            "max_neighbors",
        ),
        "search: lengths overflow": (
            lambda: native.radius_neighbors(
                points, points, 0.1, torch.tensor([2**62, 2**62, N]), torch.tensor([0, 0, N]), None
            ),
            "length",
        ),
        "search: lengths dtype": (
            lambda: native.radius_neighbors(points, points, 0.1, one.int(), one, None),
            "lengths",
        ),
        "level: half": (
            lambda: native.level_tables(
                points, one, 0.1, None, points.double(), one, 0.1, None, None
            ),
            "float",
        ),
        "subsample: dtype": (
            lambda: native.grid_subsample(points.half(), 0.1, one, None, None),
            "float32",
        ),
        "subsample: labels": (
            lambda: native.grid_subsample(points, 0.1, one, None, torch.ones(N)),
            "labels",
        ),
        "subsample: features": (
            lambda: native.grid_subsample(points, 0.1, one, torch.ones(()), None),
            "features",
        ),
        "subsample: features dtype": (
            lambda: native.grid_subsample(points, 0.1, one, torch.ones(N, 2).long(), None),
            "features",
        ),
        "subsample: cell": (
            lambda: native.grid_subsample(points, 1e-320, one, None, None),
            "cell_size",
        ),
        "image: dilation": (
            lambda: native.deform_conv2d(image, offset, taps, None, [1, 1], [1] * 4, [0, 1]),
            "dilation",
        ),
        "image: stride": (
            lambda: native.deform_conv2d(image, offset, taps, None, [huge, 1], [1] * 4, [1, 1]),
            "stride",
        ),
        "image: padding": (
            lambda: native.deform_conv2d(image, offset, taps, None, [1, 1], [1] * 3, [1, 1]),
            "padding",
        ),
        "image: weight": (
            lambda: native.deform_conv2d(image, offset, taps[..., 0], None, *walk),
            "weight",
        ),
        "image: offset": (
            lambda: native.deform_conv2d(image, offset[:, :3], taps, None, *walk),
            "offset",
        ),
        "image: grad": (
            lambda: native.deform_conv2d_backward(
                image[:, :3], image, offset, taps, None, *walk, True, True, True, True
            ),
            "grad",
        ),
        "boxes: samples": (
            lambda: native.deform_roi_pool(rows, boxes, None, [2, 2], huge, 0),
            "samples",
        ),
        "boxes: samples negative": (
            lambda: native.deform_roi_pool(rows, boxes, None, [2, 2], -1, 1),
            "samples",
        ),
        "boxes: bins": (
            lambda: native.deform_roi_pool(rows, boxes, None, [2**40, 2], 1, 0),
            "output_size",
        ),
        "boxes: no bins": (
            lambda: native.deform_roi_pool(rows, boxes, None, [], 1, 0),
            "output_size",
        ),
        "boxes: image": (
            lambda: native.deform_roi_pool(rows, boxes + 1, None, [2, 2], 1, 0),
            "image",
        ),
        "boxes: image nan": (
            lambda: native.deform_roi_pool(rows, boxes * nan, None, [2, 2], 1, 0),
            "image",
        ),
        "boxes: rule": (lambda: native.deform_roi_pool(rows, boxes, None, [2, 2], 1, 5), "rule"),
        "boxes: backward samples": (
            lambda: native.deform_roi_pool_backward(
                torch.ones(1, 2, 2, 4), rows, boxes, None, [2, 2], huge, 0, True, True
            ),
            "samples",
        ),
        "norm: groups": (
            lambda: native.batch_norm(*norm, None, None, None, 1e-5, 1.0, 3),
            "groups",
        ),
        "norm: eps": (lambda: native.batch_norm(*norm, None, None, None, nan, 1.0, C), "eps"),
        "norm: slope": (lambda: native.batch_norm(*norm, None, None, None, 0.0, nan, C), "slope"),
        "norm: one statistic": (
            lambda: native.batch_norm(*norm, torch.ones(C), None, None, 1e-5, 1.0, C),
            "variance",
        ),
        "norm: half": (
            lambda: native.batch_norm(
                *(t.half() for t in norm), None, None, None, 1e-5, 1.0, C
            ),
            "float32",
        ),
        "norm: strided": (
            lambda: native.batch_norm(
                strided(features.flatten()).view(N, C).t()[:, :C].t(), *norm[1:],
                None, None, None, 1e-5, 1.0, C + 1,
            ),
            "groups|contiguous",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", calls())
def test_refused(name):
    call, word = calls()[name]
    with pytest.raises(RuntimeError, match=word):
        call()


@pytest.mark.parametrize(
    ("dims", "stride", "word"),
    [(1, [1, 1], "weight 4 or, depthwise, 3"), (4, [1], "stride and"), (4, [0, 1], "stride and")],
)
def test_meta_tensors_that_do_not_fit(dims, stride, word):
    image, offset, weight = (
        torch.empty(shape, device="meta")
        for shape in [(1, 5, 5, 4), (1, 5, 5, 1, 9, 2), (3, 3, 4, 2)[:dims]]
    )
    with pytest.raises(RuntimeError, match=word):
        torch.ops.kpdeform.deform_conv2d(image, offset, weight, None, stride, [1] * 4, [1, 1])
