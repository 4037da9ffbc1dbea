"""The one table of tolerances, relative to the largest expected magnitude, each with its reason."""

import torch

RELATIVE = {
    torch.float64: 1e-11,  # same formulas, other order of at most a few thousand terms
    torch.float32: 2e-5,  # the same, in float32: 2^-24 times a few hundred terms
}
LOOPS = 1e-12  # float64 against loops with the same formulas, over at most a few hundred terms
GOLDEN = 1e-5  # other public implementations, float32 both sides; the accuracy asked for


def assert_close(actual, expected, tolerance=None, what="value"):
    """Largest absolute error over largest expected magnitude; NaN fails."""
    actual, expected = torch.as_tensor(actual).cpu(), torch.as_tensor(expected).cpu()
    assert actual.shape == expected.shape, (
        f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    if expected.numel() == 0:
        return
    tolerance = RELATIVE[actual.dtype] if tolerance is None else tolerance
    error = (actual.double() - expected.double()).abs().max()
    scale = expected.double().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    assert error <= tolerance * scale, f"{what}: relative error {float(error / scale):.3g}"
