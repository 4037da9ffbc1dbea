"""What kpconv_depthwise computes and refuses.

What every op owes is tested in test_ladder.py.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kpdeform import ops, reference
from tests.ops.test_kpconv import MODES, kink_distance
from tests.oracles import kpconv_depthwise as oracle
from tests.tolerances import GOLDEN, RELATIVE, assert_close

GROUPS = [(None, None), (None, 1), (1, 1), (None, 3), (3, None), (3, 3), (1, 3), (3, 1)]
"""Groups of the offsets and of the modulations; None for none, 1 for the ungrouped layout."""


@dataclass
class Case:
    queries: Tensor
    points: Tensor
    neighbors: Tensor
    features: Tensor
    kernel_points: Tensor
    weight: Tensor
    offsets: Tensor | None
    modulations: Tensor | None
    sigma: float = 0.35
    influence: str = "linear"
    aggregation: str = "closest"

    def run(self, function=ops.kpconv_depthwise):
        return function(
            self.queries, self.points, self.neighbors, self.features, self.kernel_points,
            self.weight, self.sigma, offsets=self.offsets, modulations=self.modulations,
            influence=self.influence, aggregation=self.aggregation,
        )  # fmt: skip

    def leaves(self) -> dict[str, Tensor]:
        names = ("features", "weight", "offsets", "modulations")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def values_and_grads(self, function=ops.kpconv_depthwise) -> dict[str, Tensor]:
        leaves = {n: t.detach().clone().requires_grad_() for n, t in self.leaves().items()}
        out = replace(self, **leaves).run(function)
        upstream = torch.linspace(-1, 1, max(out.numel(), 1), dtype=torch.float64)[: out.numel()]
        upstream = upstream.view(out.shape).to(out)
        grads = torch.autograd.grad(out, list(leaves.values()), upstream, allow_unused=True)
        grads = [
            torch.zeros_like(t) if g is None else g
            for g, t in zip(grads, leaves.values(), strict=True)
        ]
        return {"out": out.detach(), **{f"grad_{n}": g for n, g in zip(leaves, grads, strict=True)}}


def make_case(
    num_queries=23, num_points=40, slots=9, channels=6, kernel=15, dim=3, groups=(1, 3),
    dtype=torch.float64, device="cpu", index=torch.int32, **options,
) -> Case:  # fmt: skip
    of_offsets, of_modulations = groups
    offsets = modulations = None
    if of_offsets is not None:
        grouped = () if of_offsets == 1 else (of_offsets,)
        offsets = 0.1 * torch.randn(num_queries, *grouped, kernel, dim, dtype=dtype)
    if of_modulations is not None:
        grouped = () if of_modulations == 1 else (of_modulations,)
        modulations = torch.rand(num_queries, kernel, *grouped, dtype=dtype)
    case = Case(
        queries=torch.rand(num_queries, dim, dtype=dtype),
        points=torch.rand(num_points, dim, dtype=dtype),
        neighbors=torch.randint(-1, num_points + 1, (num_queries, slots), dtype=index),
        features=torch.randn(num_points, channels, dtype=dtype),
        kernel_points=torch.rand(kernel, dim, dtype=dtype) - 0.5,
        weight=torch.randn(kernel, channels, dtype=dtype),
        offsets=offsets,
        modulations=modulations,
        **options,
    )
    moved = {n: t.to(device) for n, t in vars(case).items() if isinstance(t, Tensor)}
    return replace(case, **moved)


def as_numpy(case: Case) -> dict:
    return {n: v.cpu().numpy() if isinstance(v, Tensor) else v for n, v in vars(case).items()}


# ---- values and gradients


@pytest.mark.shim
@pytest.mark.parametrize(("influence", "aggregation"), MODES)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
def test_agrees_with_the_oracle(influence, aggregation, groups, dim, device):
    case = make_case(
        groups=groups, dim=dim, device=device, influence=influence, aggregation=aggregation
    )
    expected = oracle.kpconv_depthwise(**as_numpy(case))
    assert_close(case.run(), torch.tensor(expected), RELATIVE[torch.float64])
    assert_close(case.run(reference.kpconv_depthwise), torch.tensor(expected))


@pytest.mark.parametrize(("influence", "aggregation"), MODES)
@pytest.mark.parametrize("groups", GROUPS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [3, 15, 48, 81])
def test_agrees_with_the_twin_in_value_and_every_gradient(
    influence, aggregation, groups, dtype, channels, device
):
    case = make_case(
        channels=channels, groups=groups, dtype=dtype, device=device,
        influence=influence, aggregation=aggregation,
    )  # fmt: skip
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv_depthwise)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)
        silent = name == "grad_offsets" and influence == "constant"
        assert silent or actual[name].abs().max() > 0, f"{name} is silently zero"


@pytest.mark.parametrize("sites", [1, 131, 700])
def test_more_sites_than_a_tile(sites):
    case = make_case(num_queries=sites, num_points=500, channels=66, slots=20, kernel=43)
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv_depthwise)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)


@pytest.mark.parametrize("influence", ["linear", "gaussian"])
@pytest.mark.parametrize("aggregation", ["sum", "closest"])
def test_gradcheck_away_from_the_kinks(influence, aggregation):
    case = make_case(
        num_queries=4, num_points=7, slots=3, channels=4, kernel=5, groups=(1, 2),
        influence=influence, aggregation=aggregation,
    )  # fmt: skip
    assert kink_distance(case) > 1e-4, "choose another seed: a sample sits on a kink"
    leaves = {n: t.requires_grad_() for n, t in case.leaves().items()}
    torch.autograd.gradcheck(
        lambda *values: replace(case, **dict(zip(leaves, values, strict=True))).run(),
        tuple(leaves.values()),
    )


def test_gradient_at_distance_zero_is_zero_not_nan():
    points = torch.zeros(1, 3)
    offsets = torch.zeros(1, 1, 3, requires_grad=True)
    y = ops.kpconv_depthwise(
        points, points, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1),
        torch.zeros(1, 3), torch.ones(1, 1), 1.0, offsets=offsets,
    )  # fmt: skip
    y.sum().backward()
    assert y.item() == 1.0
    assert torch.equal(offsets.grad, torch.zeros(1, 1, 3))


# ---- what it must equal


def test_equals_the_dense_convolution_with_a_group_per_channel():
    case = make_case(groups=(1, 1))
    dense = ops.kpconv(
        case.queries, case.points, case.neighbors, case.features, case.kernel_points,
        case.weight[:, None], case.sigma, offsets=case.offsets, modulations=case.modulations,
        aggregation="closest", groups=6,
    )  # fmt: skip
    assert_close(case.run(), dense)


def test_translation_changes_nothing():
    case = make_case()
    moved = replace(case, queries=case.queries + 8.0, points=case.points + 8.0)
    assert_close(moved.run(), case.run(), 1e-9)


def test_order_of_slots_and_of_points_changes_nothing():
    case = make_case(influence="gaussian")
    slots = torch.randperm(case.neighbors.shape[1])
    assert_close(replace(case, neighbors=case.neighbors[:, slots]).run(), case.run())
    rows = torch.randperm(case.points.shape[0])
    new_row = torch.cat([rows.argsort(), torch.tensor([len(rows), -1])]).int()  # N stays, -1 stays
    shuffled = replace(
        case, points=case.points[rows], features=case.features[rows],
        neighbors=new_row[case.neighbors.long()],
    )  # fmt: skip
    assert_close(shuffled.run(), case.run())


def test_zero_offsets_and_unit_modulations_equal_rigid():
    case = make_case(groups=(None, None))
    shape = (case.queries.shape[0], *case.kernel_points.shape)
    deformed = replace(
        case,
        offsets=torch.zeros(shape, dtype=torch.float64),
        modulations=torch.ones(*shape[:2], 3, dtype=torch.float64),
    )
    assert torch.equal(deformed.run(), case.run())


# ---- shapes, dtypes, layouts


@pytest.mark.shim
@pytest.mark.parametrize(
    "sizes",
    [
        {"num_queries": 0},
        {"num_points": 0},
        {"num_queries": 0, "num_points": 0},
        {"slots": 0},
        {"num_queries": 1, "channels": 1, "groups": (1, 1)},
        {"kernel": 1, "slots": 1},
        {"channels": 0},
    ],
    ids=str,
)
def test_small_and_empty_shapes(sizes, device):
    case = make_case(**sizes, device=device)
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv_depthwise)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)


@pytest.mark.parametrize("empty", [-1, 40])
def test_rows_without_neighbours_give_zero(empty):
    case = make_case()
    case.neighbors[3:6] = empty
    assert torch.equal(case.run()[3:6], torch.zeros(3, 6, dtype=torch.float64))


# ---- other implementations


@pytest.mark.parametrize(
    ("name", "influence"),
    [
        ("KPConvD", "linear"),
        ("KPConvD_const", "constant"),
        ("KPConv_depth_nearest", "linear"),
    ],
)
def test_agrees_with_golden(name, influence, shared):
    data = {
        k: torch.tensor(v) for k, v in np.load(shared / "golden" / f"kpconvx_{name}.npz").items()
    }
    features, weight = data["x"].requires_grad_(), data["state/weights"].requires_grad_()
    y = ops.kpconv_depthwise(
        data["q"], data["s"], data["inds"], features, data["state/kernel_points"],
        weight.flatten(1), 0.25, influence=influence,
    )  # fmt: skip
    assert_close(y, data["out/y"], GOLDEN)
    y.backward(data["out/grad_out"])
    assert_close(weight.grad, data["out/grads/weights"], GOLDEN)
    assert_close(features.grad, data["out/grad_x"], GOLDEN)


# ---- bad input


def changed(**changes):
    return lambda: replace(make_case(), **changes)


def bad_index(value: int):
    def make() -> Case:
        case = make_case()
        case.neighbors[2, 1] = value
        return case

    return make


def double(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


BAD = [
    (changed(neighbors=torch.zeros(4, 9).int()), ValueError, "neighbors has shape .* 23 rows"),
    (bad_index(41), ValueError, r"neighbors\[2, 1\] is 41, but points has 40"),
    (bad_index(-2), ValueError, r"neighbors\[2, 1\] is -2"),
    (changed(neighbors=torch.zeros(23, 9)), TypeError, "neighbors must be int32"),
    (changed(sigma=0.0), ValueError, "sigma must be finite and > 0"),
    (changed(queries=torch.zeros(23, 3).int()), TypeError, "queries must be float32, float64"),
    (changed(points=double(40, 2)), ValueError, "points must have 3 columns"),
    (changed(features=double(39, 6)), ValueError, "one row per point"),
    (changed(features=torch.rand(40, 6)), TypeError, "features is float32 but points is float64"),
    (changed(weight=double(15, 5)), ValueError, r"weight must be \(K, C\) = \(15, 6\)"),
    (changed(weight=double(15, 6, 1)), ValueError, r"weight must be \(K, C\)"),
    (changed(weight=torch.rand(15, 6)), TypeError, "weight is float32 but features"),
    (changed(offsets=double(23, 14, 3)), ValueError, r"offsets must be \(M, K, D\)"),
    (changed(offsets=double(23, 4, 15, 3)), ValueError, "groups of offsets must divide the 6"),
    (changed(offsets=double(23, 2, 15, 3)), ValueError, "must have one number of groups"),
    (changed(modulations=double(23, 14)), ValueError, r"modulations must be \(M, K\)"),
    (changed(modulations=double(23, 15, 4)), ValueError, "groups of modulations must divide"),
    (changed(modulations=double(23, 15, 0)), ValueError, "groups of modulations must divide"),
    (changed(modulations=torch.rand(23, 15)), TypeError, "modulations is float32 but queries"),
    (changed(influence="cubic"), ValueError, "influence must be one of"),
    (changed(aggregation="mean"), ValueError, "aggregation must be one of"),
    (changed(weight=double(15, 6).to("meta")), ValueError, "weight is on meta"),
]  # fmt: skip


@pytest.mark.cpu_only
@pytest.mark.parametrize(("make", "error", "text"), BAD, ids=[text for *_, text in BAD])
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make().run()


@pytest.mark.cpu_only
def test_native_code_guards_itself():
    """torch.ops can be called without the Python checks: an error, never a crash."""
    case = make_case()
    args = [
        case.queries, case.points, case.neighbors, case.features, case.kernel_points, case.weight,
        0.3, case.offsets, case.modulations, 0, 1,
    ]  # fmt: skip
    wrong = {
        0: case.queries[:, :2], 1: case.points.float(), 2: case.neighbors[:4], 3: case.features[:5],
        4: case.kernel_points[:3], 5: case.weight[:, :2], 7: case.offsets[:1],
        8: case.modulations[:1],
    }  # fmt: skip
    for position, value in wrong.items():
        bad = list(args)
        bad[position] = value
        with pytest.raises(RuntimeError, match="kpdeform:"):
            torch.ops.kpdeform.kpconv_depthwise.default(*bad)
