"""What kpconv and kernel_point_distances compute and refuse.

What every op owes is tested in test_ladder.py.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kpdeform import ops, reference
from tests.oracles import kpconv as oracle
from tests.tolerances import GOLDEN, RELATIVE, assert_close

MODES = [
    (i, a) for i in ("linear", "gaussian", "constant") for a in ("sum", "closest")
]  # influence, aggregation


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
    aggregation: str = "sum"
    groups: int = 1

    def run(self, function=ops.kpconv):
        return function(
            self.queries, self.points, self.neighbors, self.features, self.kernel_points,
            self.weight, self.sigma, offsets=self.offsets, modulations=self.modulations,
            influence=self.influence, aggregation=self.aggregation, groups=self.groups,
        )  # fmt: skip

    def leaves(self) -> dict[str, Tensor]:
        names = ("features", "weight", "offsets", "modulations")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def values_and_grads(self, function=ops.kpconv) -> dict[str, Tensor]:
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
    num_queries=23, num_points=40, slots=9, channels=6, outputs=8, kernel=15, dim=3,
    deformable=True, modulated=True, dtype=torch.float64, device="cpu", index=torch.int32,
    **options,
) -> Case:  # fmt: skip
    points = torch.rand(num_points, dim, dtype=dtype)
    neighbors = torch.randint(-1, num_points + 1, (num_queries, slots), dtype=index)
    groups = options.get("groups", 1)
    case = Case(
        queries=torch.rand(num_queries, dim, dtype=dtype),
        points=points,
        neighbors=neighbors,
        features=torch.randn(num_points, channels, dtype=dtype),
        kernel_points=torch.rand(kernel, dim, dtype=dtype) - 0.5,
        weight=torch.randn(kernel, channels // groups, outputs, dtype=dtype),
        offsets=0.1 * torch.randn(num_queries, kernel, dim, dtype=dtype) if deformable else None,
        modulations=torch.rand(num_queries, kernel, dtype=dtype) if modulated else None,
        **options,
    )
    moved = {n: t.to(device) for n, t in vars(case).items() if isinstance(t, Tensor)}
    return replace(case, **moved)


def as_numpy(case: Case) -> dict:
    values = {n: v.cpu().numpy() if isinstance(v, Tensor) else v for n, v in vars(case).items()}
    return values


# ---- values and gradients


@pytest.mark.shim
@pytest.mark.parametrize(("influence", "aggregation"), MODES)
@pytest.mark.parametrize("deformable", [False, True], ids=["rigid", "deformable"])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_agrees_with_the_oracle(influence, aggregation, deformable, dim, groups, device):
    case = make_case(
        deformable=deformable, modulated=deformable, dim=dim, device=device,
        influence=influence, aggregation=aggregation, groups=groups,
    )  # fmt: skip
    expected = oracle.kpconv(**as_numpy(case))
    assert_close(case.run(), torch.tensor(expected), RELATIVE[torch.float64])
    assert_close(case.run(reference.kpconv), torch.tensor(expected), RELATIVE[torch.float64])


@pytest.mark.parametrize(("influence", "aggregation"), MODES)
@pytest.mark.parametrize("deformable", [False, True], ids=["rigid", "deformable"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 5, 16, 70])
def test_agrees_with_the_twin_in_value_and_every_gradient(
    influence, aggregation, deformable, dtype, channels, device
):
    case = make_case(
        channels=channels, outputs=channels + 3, deformable=deformable, modulated=deformable,
        dtype=dtype, device=device, influence=influence, aggregation=aggregation,
    )  # fmt: skip
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)
        silent = name == "grad_offsets" and influence == "constant"
        assert silent or actual[name].abs().max() > 0, f"{name} is silently zero"


@pytest.mark.parametrize(("influence", "aggregation"), MODES)
@pytest.mark.parametrize("grouped", ["offsets", "modulations", "both"])
@pytest.mark.parametrize("groups", [1, 2])
def test_channel_groups_deform_on_their_own(influence, aggregation, grouped, groups, device):
    case = make_case(influence=influence, aggregation=aggregation, groups=groups, device=device)
    if grouped != "modulations":
        case.offsets = 0.1 * torch.randn(23, 3, 15, 3, dtype=torch.float64, device=device)
    if grouped != "offsets":
        case.modulations = torch.rand(23, 15, 3, dtype=torch.float64, device=device)
    expected = torch.tensor(oracle.kpconv(**as_numpy(case)))
    actual, twin = case.values_and_grads(), case.values_and_grads(reference.kpconv)
    for name in twin:
        assert_close(actual[name], twin[name], what=name)
    assert_close(twin["out"], expected)


@pytest.mark.parametrize("sites", [1, 131, 700])
def test_more_sites_than_a_tile(sites):
    case = make_case(num_queries=sites, num_points=500, channels=64, outputs=40, slots=20)
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)


@pytest.mark.parametrize("influence", ["linear", "gaussian"])
@pytest.mark.parametrize("aggregation", ["sum", "closest"])
def test_gradcheck_away_from_the_kinks(influence, aggregation):
    case = make_case(
        num_queries=4, num_points=7, slots=3, channels=2, outputs=3, kernel=5,
        influence=influence, aggregation=aggregation,
    )  # fmt: skip
    assert kink_distance(case) > 1e-4, "choose another seed: a sample sits on a kink"
    leaves = {n: t.requires_grad_() for n, t in case.leaves().items()}
    torch.autograd.gradcheck(
        lambda *values: replace(case, **dict(zip(leaves, values, strict=True))).run(),
        tuple(leaves.values()),
    )


def kink_distance(case: Case) -> float:
    """How far the nearest pair is from distance 0, from sigma, and from a tie of closest points."""
    c = as_numpy(case)
    position = c["kernel_points"] + c["offsets"]
    gaps = []
    for m, row in enumerate(c["neighbors"]):
        for n in row[(row >= 0) & (row < len(c["points"]))]:
            d = np.linalg.norm(c["points"][n] - c["queries"][m] - position[m], axis=1)
            gaps += [d.min(), np.abs(d - case.sigma).min(), np.diff(np.sort(d)[:2])[0]]
    return min(gaps)


def test_gradient_at_distance_zero_is_zero_not_nan():
    points = torch.zeros(1, 3)
    offsets = torch.zeros(1, 1, 3, requires_grad=True)
    y = ops.kpconv(
        points, points, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1),
        torch.zeros(1, 3), torch.ones(1, 1, 1), 1.0, offsets=offsets,
    )  # fmt: skip
    y.sum().backward()
    assert y.item() == 1.0
    assert torch.equal(offsets.grad, torch.zeros(1, 1, 3))


# ---- invariances


def test_translation_changes_nothing():
    case = make_case(dtype=torch.float64)
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
    case = make_case(deformable=False, modulated=False)
    shape = (case.queries.shape[0], *case.kernel_points.shape)
    deformed = replace(
        case,
        offsets=torch.zeros(shape, dtype=torch.float64),
        modulations=torch.ones(shape[:2], dtype=torch.float64),
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
        {"num_queries": 1, "channels": 1, "outputs": 1},
        {"kernel": 1, "slots": 1},
        {"channels": 0},
        {"outputs": 0},
    ],
    ids=str,
)
def test_small_and_empty_shapes(sizes, device):
    case = make_case(**sizes, device=device)
    actual, expected = case.values_and_grads(), case.values_and_grads(reference.kpconv)
    for name in expected:
        assert_close(actual[name], expected[name], what=name)


@pytest.mark.parametrize("empty", [-1, 40])
def test_rows_without_neighbours_give_zero(empty):
    case = make_case()
    case.neighbors[3:6] = empty
    assert torch.equal(case.run()[3:6], torch.zeros(3, 8, dtype=torch.float64))


# ---- kernel_point_distances


def distances(case: Case, function=ops.kernel_point_distances) -> Tensor:
    return function(
        case.queries, case.points, case.neighbors, case.kernel_points, case.sigma,
        offsets=case.offsets,
    )  # fmt: skip


@pytest.mark.shim
@pytest.mark.parametrize("deformable", [False, True], ids=["rigid", "deformable"])
@pytest.mark.parametrize("dim", [2, 3])
def test_distances_agree_with_the_oracle(deformable, dim, device):
    case = make_case(deformable=deformable, dim=dim, device=device)
    case.neighbors[0] = -1
    names = ("queries", "points", "neighbors", "kernel_points", "offsets")
    values = as_numpy(case)
    expected = oracle.kernel_point_distances(*(values[n] for n in names))
    assert_close(distances(case), torch.tensor(expected), RELATIVE[torch.float64])
    assert_close(distances(case, reference.kernel_point_distances), torch.tensor(expected))


def test_distances_gradient():
    case = make_case(num_queries=5, kernel=4)
    case.neighbors[0] = 40
    offsets = case.offsets.requires_grad_()
    torch.autograd.gradcheck(lambda o: distances(replace(case, offsets=o)), offsets)
    (ours,) = torch.autograd.grad(distances(case).sum(), offsets)
    (twin,) = torch.autograd.grad(distances(case, reference.kernel_point_distances).sum(), offsets)
    assert_close(ours, twin)
    assert torch.equal(ours[0], torch.zeros(4, 3, dtype=torch.float64))


# ---- other implementations


@pytest.mark.parametrize("name", ["kpconv_rigid", "kpconv_deform"])
def test_agrees_with_golden(name, shared):
    data = {k: torch.tensor(v) for k, v in np.load(shared / "golden" / f"{name}.npz").items()
            if v.dtype.kind in "fib"}  # fmt: skip
    offsets = None
    if "out/deformed_KP" in data:
        offsets = (data["out/deformed_KP"] - data["state/kernel_points"]).requires_grad_()
    features = data["x"].requires_grad_()
    weight = data["state/weights"].requires_grad_()
    sigma = float(data["extent"])
    common = (data["q"], data["s"], data["inds"])
    y = ops.kpconv(*common, features, data["state/kernel_points"], weight, sigma, offsets=offsets)
    assert_close(y, data["out/y"], GOLDEN)
    y.backward(data["out/grad_out"])
    assert_close(weight.grad, data["out/grads/weights"], GOLDEN)
    if offsets is None:
        assert_close(features.grad, data["out/grad_x"], GOLDEN)
    else:
        found = ops.kernel_point_distances(
            *common, data["state/kernel_points"], sigma, offsets=offsets
        )
        assert_close(found, data["out/min_d2"], GOLDEN)


# ---- bad input


def changed(**changes):
    return lambda: replace(make_case(), **changes)


def bad_index(value: int):
    def make() -> Case:
        case = make_case()
        case.neighbors[2, 1] = value
        return case

    return make


SHORT = torch.zeros(4, 9, dtype=torch.int32)
BAD = [
    (changed(neighbors=SHORT), ValueError, "neighbors has shape .* but queries has 23 rows"),
    (bad_index(41), ValueError, r"neighbors\[2, 1\] is 41, but points has 40"),
    (bad_index(-2), ValueError, r"neighbors\[2, 1\] is -2"),
    (changed(neighbors=torch.zeros(23, 9)), TypeError, "neighbors must be int32"),
    (changed(sigma=0.0), ValueError, "sigma must be finite and > 0"),
    (changed(sigma=float("nan")), ValueError, "sigma must be finite and > 0"),
    (
        changed(queries=torch.zeros(23, 3).int()),
        TypeError,
        "queries must be float32, float64, got int32",
    ),
    (
        changed(points=torch.rand(40, 3)),
        TypeError,
        "points is float32 but queries is float64",
    ),
    (changed(points=torch.rand(40, 2).double()), ValueError, "points must have 3 columns"),
    (changed(features=torch.rand(39, 6).double()), ValueError, "one row per point"),
    (changed(features=torch.rand(40, 6)), TypeError, "features is float32 but points is float64"),
    (changed(weight=torch.rand(15, 5, 8).double()), ValueError, r"weight must be \(K, C"),
    (changed(groups=4), ValueError, "groups must divide the 6 channels"),
    (changed(offsets=torch.rand(23, 14, 3).double()), ValueError, "offsets must be"),
    (changed(modulations=torch.rand(23, 14).double()), ValueError, "modulations must"),
    (changed(influence="cubic"), ValueError, "influence must be one of"),
    (changed(aggregation="mean"), ValueError, "aggregation must be one of"),
    (changed(weight=torch.rand(15, 6, 8, device="meta").double()), ValueError, "weight is on meta"),
]


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
        0.3, case.offsets, case.modulations, 0, 0, 1,
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
            torch.ops.kpdeform.kpconv.default(*bad)
