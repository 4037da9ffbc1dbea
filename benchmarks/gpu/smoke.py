"""Every op on the GPU against float64 on the CPU, and odd shapes against the twins.

Prints one line per case: OK or BAD with the relative errors, or DIED with the error. A case that
breaks the CUDA context ends the process; another one continues behind it.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch

from benchmarks.gpu import common
from kpdeform import nn, ops, reference
from tests.differentiable import CALLS, errors, exact, inputs_of, values_and_grads

Result = tuple[bool, str]  # whether it is right, and what to print
Case = Callable[[torch.device], Result]

# Relative to the largest value: far above rounding, far below a wrong index. The tests on the GPU
# have narrower bounds (tests/ops/test_precision.py).
BOUNDS = {
    torch.float32: 2e-4,
    torch.bfloat16: 1e-1,
    torch.float16: 2e-2,
    torch.float64: 1e-9,
}
# (points, C, O, K, H): tails of channels, packs, a warp per site, rows longer than what is staged,
# many kernel points, several chunks of S.
SHAPES = [
    (700, 3, 5, 15, 20),
    (700, 5, 7, 15, 20),
    (700, 8, 8, 15, 20),
    (700, 24, 16, 15, 33),
    (700, 264, 32, 15, 20),
    (300, 9, 5, 4, 300),
    (300, 32, 8, 60, 60),
    (9000, 256, 16, 15, 12),
]


def check_call(name: str, dtype: torch.dtype, device: torch.device) -> Result:
    """A call of the tests' table: its result and gradients."""
    given = inputs_of(name, dtype, device)
    actual = values_and_grads(name, ops, given)
    common.synchronize(device)
    found = errors(actual, exact(name, given))
    text = " ".join(f"{key} {error:.1e}" for key, error in found.items())
    return max(found.values()) <= BOUNDS[dtype], text


def check_shape(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    deformable: bool,
    device: torch.device,
    influence: str = "linear",
) -> Result:
    """Kpconv of one shape against the twin on the same device, by relative norms."""
    count, channels, outputs, num_kernel_points, slots = shape
    generator = torch.Generator().manual_seed(1)
    random = partial(torch.randn, generator=generator)
    points = torch.rand(count, 3, generator=generator).to(device)
    table = torch.randint(-1, count + 1, (count, slots), generator=generator, dtype=torch.int32)
    kernel = torch.rand(num_kernel_points, 3, generator=generator) - 0.5
    leaves = [
        random(count, channels).to(device, dtype),
        (random(num_kernel_points, channels, outputs) / 20).to(device, dtype),
    ]
    if deformable:
        leaves.append((0.1 * random(count, num_kernel_points, 3)).to(device))
    features, weight, *offsets = (leaf.requires_grad_() for leaf in leaves)
    upstream = random(count, outputs).to(device, dtype)
    results = []
    for op in (ops.kpconv, reference.kpconv):
        out = op(
            points, points, table.to(device), features, kernel.to(device), weight, 0.4,
            offsets=offsets[0] if deformable else None, influence=influence,
        )  # fmt: skip
        results.append([out.detach(), *torch.autograd.grad(out, leaves, upstream)])
    pairs = [(a.double(), b.double()) for a, b in zip(*results, strict=True)]
    found = [float((a - b).norm() / b.norm()) for a, b in pairs]
    bound = 1e-4 if dtype == torch.float32 else 3e-2
    return max(found) <= bound, " ".join(f"{error:.1e}" for error in found)


def check_tables(device: torch.device) -> Result:
    """Searches and subsampling: the same tables as on the CPU."""
    points, lengths = torch.rand(5000, 3), torch.tensor([2000, 0, 3000])
    found = []
    for where in (torch.device("cpu"), device):
        p, n = points.to(where), lengths.to(where)
        packed = {"query_lengths": n, "point_lengths": n}
        thinned = ops.grid_subsample(p, 0.07, lengths=n)
        tables = {
            "radius": ops.radius_neighbors(p, p, 0.1, **packed),
            "knn": ops.knn_neighbors(p, p, 7, **packed),
            "points": thinned.points,
            "inverse": thinned.inverse,
            "lengths": thinned.lengths,
        }
        found.append({name: table.cpu() for name, table in tables.items()})
    wrong = [name for name, table in found[0].items() if not torch.equal(table, found[1][name])]
    return not wrong, f"wrong: {', '.join(wrong)}" if wrong else ""


def check_unaligned_rows(device: torch.device) -> Result:
    """Rows that begin 2 bytes behind a multiple of 16."""
    rows = torch.randn(100 * 16 + 1, device=device).to(torch.bfloat16)[1:].view(100, 16)
    table = torch.randint(0, 100, (50, 9), device=device, dtype=torch.int32)
    same = torch.equal(ops.neighbor_pool(rows, table), ops.neighbor_pool(rows.clone(), table))
    return same, ""


def check_empty_inputs(device: torch.device) -> Result:
    """Clouds without points."""
    none, some = torch.zeros(0, 3, device=device), torch.rand(10, 3, device=device)
    table = torch.zeros(4, 3, dtype=torch.int32, device=device)
    shapes = [
        ops.radius_neighbors(none, some, 0.1, max_neighbors=4).shape,
        ops.radius_neighbors(some, none, 0.1, max_neighbors=4).shape,
        ops.knn_neighbors(some, none, 3).shape,
        ops.grid_subsample(none, 0.1).points.shape,
        ops.neighbor_pool(torch.zeros(0, 8, device=device), table).shape,
    ]
    common.synchronize(device)
    return [shape[0] for shape in shapes] == [0, 10, 10, 0, 4], str([tuple(s) for s in shapes])


def check_equal_bits(device: torch.device) -> Result:
    """Two runs have the same bits, and so has one on another stream."""
    name = "kpconv deformable"
    given = inputs_of(name, torch.float32, device)
    runs = [values_and_grads(name, ops, given) for _ in range(2)]
    if device.type == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            runs.append(values_and_grads(name, ops, given))
        stream.synchronize()
    wrong = [key for key, value in runs[0].items() for r in runs[1:] if not value.equal(r[key])]
    return not wrong, f"differ: {wrong}" if wrong else ""


def check_graph(device: torch.device) -> Result:
    """A step captured in a CUDA graph."""
    if device.type != "cuda":
        return True, "there are no graphs on the CPU"
    given = inputs_of("kpconv", torch.bfloat16, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            values_and_grads("kpconv", ops, given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = values_and_grads("kpconv", ops, given)
    graph.replay()
    common.synchronize(device)
    expected = values_and_grads("kpconv", ops, given)
    return all(captured[key].equal(value) for key, value in expected.items()), ""


def check_compiled(device: torch.device) -> Result:
    """A layer under torch.compile."""
    if device.type != "cuda":
        return True, "compiled on a GPU only, because it takes long"
    points = torch.rand(500, 3, device=device)
    table = ops.radius_neighbors(points, points, 0.3, max_neighbors=20)
    layer = nn.KPConv(16, 16, radius=0.3, sigma=0.15).to(device)
    features = torch.randn(500, 16, device=device)
    expected = layer(points, points, table, features)
    actual = torch.compile(layer)(points, points, table, features)
    error = float((actual - expected).abs().max())
    return error < 1e-4, f"{error:.1e}"


def all_cases(small: bool) -> dict[str, Case]:
    """The cases by name, in order; a small run takes one dtype and few shapes."""
    cases: dict[str, Case] = {"tables": check_tables}
    for dtype, name in product(list(BOUNDS)[: 1 if small else None], CALLS):
        if CALLS[name].half or dtype in (torch.float32, torch.float64):
            cases[f"{name}, {str(dtype)[6:]}"] = partial(check_call, name, dtype)
    dtypes = (torch.float32, torch.bfloat16)
    for shape, dtype, deformable in product(SHAPES[: 2 if small else None], dtypes, (False, True)):
        kind = "deformable" if deformable else "rigid"
        name = f"kpconv (N, C, O, K, H) = {shape}, {str(dtype)[6:]}, {kind}"
        cases[name] = partial(check_shape, shape, dtype, deformable)
    cases["kpconv gaussian"] = partial(
        check_shape, SHAPES[3], torch.float32, True, influence="gaussian"
    )
    cases |= {
        "unaligned rows": check_unaligned_rows,
        "empty inputs": check_empty_inputs,
        "equal bits": check_equal_bits,
        "a step in a CUDA graph": check_graph,
        "torch.compile": check_compiled,
    }
    return cases


def run_cases(cases: dict[str, Case], first: int, device: torch.device) -> int:
    """Runs the cases from number ``first`` on; returns how many are wrong."""
    wrong = 0
    for number, (name, check) in list(enumerate(cases.items()))[first:]:
        print(f"case {number}", end=" ", flush=True)
        try:
            right, text = check(device)
            common.synchronize(device)
        except Exception as error:
            print("DIED", name, "|", type(error).__name__, str(error).splitlines()[:1], flush=True)
            traceback.print_exc(limit=4, file=sys.stdout)
            if "CUDA error" in str(error) or "illegal" in str(error):
                sys.stdout.flush()
                os._exit(1)  # the context is broken: every later case would fail too
            wrong += 1
        else:
            print("OK" if right else "BAD", name, "|", text, flush=True)
            wrong += not right
    print("end of the cases", flush=True)
    return wrong


def run_behind_crashes(command_from: Callable[[int], list[str]], most_crashes: int = 10) -> int:
    """Runs a program that prints "case N" before each case; restarts it behind one that ends it.

    Returns:
        The number of processes that failed.
    """
    first = failed = 0
    while failed < most_crashes:
        last, ended = first - 1, False
        with subprocess.Popen(command_from(first), stdout=subprocess.PIPE, text=True) as program:
            for line in program.stdout:
                print(line, end="", flush=True)
                if line.startswith("case "):
                    last = int(line.split()[1])
                ended = ended or line.startswith("end of the cases")
        failed += program.returncode != 0
        if ended or last < first:
            break
        print(f"the process of case {last} ended with {program.returncode}", flush=True)
        first = last + 1
    return failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all cases; exits with 1 if one is wrong."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["--from"]:
        device = common.choose_device(__doc__, arguments[2:])
        cases = all_cases(small=device.type == "cpu")
        sys.exit(run_cases(cases, int(arguments[1]), device) > 0)
    common.print_title("every op against float64", common.choose_device(__doc__, arguments))
    program = [sys.executable, "-m", "benchmarks.gpu.smoke"]
    failed = run_behind_crashes(lambda first: [*program, "--from", str(first), *arguments])
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
