"""What inspect proposes for real files trains to good scores, without a step by hand."""

import json
import resource

import pytest

from tests.toy import run_python

IGN = ["ground=2", "low vegetation=3,4", "high vegetation=5", "building=6"]


def core_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kpdeform(folder, *arguments):
    """Runs the command in a folder, and returns its output and the core seconds that it took."""
    start = core_seconds()
    code = f"import os, sys; os.chdir({str(folder)!r}); sys.argv[0] = 'kpdeform'"
    done = run_python("-c", f"{code}; import kpdeform.cli; kpdeform.cli.main()", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, core_seconds() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "options", "classes", "val", "least"),
    [
        ("ign_lidarhd/tile50m", [], IGN, "*77060_627760*", 0.86),
        (
            "mosd_tabletop/sub6mm",
            ["--points", "xyz_i16", "--scale", "1e-4", "--label", "sem"],
            ["table=0", "box=1", "round=2"],
            "learn3[7-9].npz,learn4*.npz",
            0.80,
        ),
    ],
    ids=["ign", "mosd"],
)
def test_the_proposal_trains_well(shared, tmp_path, files, options, classes, val, least):
    named = [word for text in classes for word in ("--class", text)]
    given = [*options, *named, "--split", f"val={val}", "--write", "mine.yaml"]
    shown, _ = kpdeform(tmp_path, "inspect", shared.resolve() / "data" / files, *given)
    commands = shown.partition("next:\n")[2].splitlines()
    prepare, train, evaluate = (line.split()[1:] for line in commands[:3])
    kpdeform(tmp_path, *prepare)
    _, seconds = kpdeform(tmp_path, *train)
    kpdeform(tmp_path, *evaluate)
    scores = json.loads((tmp_path / "results" / "mine" / "scores.json").read_text())
    print(f"mean IoU {scores['mean_iou']:.4f} in {seconds:.0f} core seconds")
    assert scores["mean_iou"] >= least
    assert seconds <= 300
