import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from torch.distributed import HashStore

laspy = pytest.importorskip("laspy")

from kpdeform import cli  # noqa: E402
from kpdeform._locks import lock  # noqa: E402
from kpdeform.data import read_cloud  # noqa: E402
from kpdeform.inference import Predictor, Rules, Tiles, segment_files  # noqa: E402
from kpdeform.inference.batch import find_sources  # noqa: E402
from kpdeform.inference.team import Team  # noqa: E402
from tests.toy import ROOT, TINY, toy_scene  # noqa: E402


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = TINY.complete(in_channels=2, num_classes=2, cell_size=0.5).build().eval()
    scales = {"intensity": 65535.0}
    features, colors = ("ones", "intensity"), [(0, 0, 0)] * 2
    return Predictor(
        model, model.pyramid_spec, features, ("a", "b"), colors, (2, 6), scales, Tiles(4.0)
    )


def write(path, num_points=1400, seed=0):
    points, _, intensity = toy_scene(seed, 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.header.scales, las.header.offsets = [0.001] * 3, [6.5e5, 6.2e6, 0]
    las.x, las.y, las.z = points[:num_points].T
    las.intensity = (65535 * intensity[:num_points, 0]).astype(np.uint16)
    las.write(path)
    return path


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def raw(tmp_path):
    write(tmp_path / "raw/a.laz")
    write(tmp_path / "raw/deep/b.las", seed=1)
    for name in ("notes.md", "notes.txt"):
        (tmp_path / "raw" / name).write_text("no cloud")
    return tmp_path / "raw"


def test_files_folders_and_patterns_are_found(raw):
    whole = find_sources([raw])
    assert {s.name: o.as_posix() for s, o in whole.items()} == {
        "a.laz": "a.laz",
        "b.las": "deep/b.las",
    }
    assert [o.name for o in find_sources([f"{raw}/*.la?"]).values()] == ["a.laz"]
    assert [o.name for o in find_sources([f"{raw}/**/*.las"]).values()] == ["b.las"]
    assert list(find_sources([raw / "a.laz", raw / "a.laz"])) == [raw / "a.laz"]
    shutil.copy(raw / "a.laz", raw / "c.copc.laz")
    assert [o.name for o in find_sources([raw / "c.copc.laz"]).values()] == ["c.laz"]
    for missing in (raw / "x.laz", f"{raw}/*.ply"):
        with pytest.raises(FileNotFoundError, match="is no file, and no folder or pattern"):
            find_sources([missing])
    with pytest.raises(
        ValueError, match=r"deep/b\.las and .*b\.las would both be written to b\.las"
    ):
        find_sources([raw / "deep/b.las", write(raw / "b.las")])


def test_finished_files_are_skipped_until_something_changes(raw, tmp_path, predictor):
    out = tmp_path / "out"
    first = segment_files(predictor, [raw], out)
    assert [p.name for p in first.labelled] == ["a.laz", "b.las"] and first.points.total == 2800
    assert names(out) == [".kpdeform.json", "a.laz", "deep/b.las"]
    second = segment_files(predictor, [raw], out)
    assert not second.labelled and len(second.finished) == 2
    assert second.points.counts.tolist() == first.points.counts.tolist()
    write(raw / "a.laz", seed=3)
    assert [p.name for p in segment_files(predictor, [raw], out).labelled] == ["a.laz"]
    assert len(segment_files(predictor, [raw], out, class_ids=[7, 8]).labelled) == 2
    assert set(laspy.read(out / "a.laz").classification) <= {7, 8}


def test_foreign_files_are_never_replaced(raw, tmp_path, predictor):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.laz").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.laz is there already"):
        segment_files(predictor, [raw], out)
    assert names(out) == ["a.laz"] and (out / "a.laz").read_text() == "mine"
    with pytest.raises(ValueError, match=r"a\.laz would replace a file to label"):
        segment_files(predictor, [raw], raw)
    (out / "a.laz").unlink()
    (out / ".kpdeform.json").write_text("{")
    with pytest.raises(ValueError, match="the list of finished files is damaged"):
        segment_files(predictor, [raw], out)


def test_a_damaged_file_does_not_stop_the_others(raw, tmp_path, predictor):
    (raw / "a.laz").write_bytes((raw / "a.laz").read_bytes()[:900])
    lines = []
    summary = segment_files(predictor, [raw], tmp_path / "out", report=lines.append)
    assert [p.name for p in summary.failed] == ["a.laz"] and len(summary.labelled) == 1
    assert any("a.laz" in line and "cannot be read" in line for line in lines)
    assert names(tmp_path / "out") == [".kpdeform.json", "deep/b.las"]


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("num_points", [0, 1])
def test_no_points_and_one_point(num_points, suffix, tmp_path, predictor):
    write(tmp_path / f"raw/a{suffix}", num_points)
    summary = segment_files(predictor, [tmp_path / "raw"], tmp_path / "out")
    assert not summary.failed and summary.points.total == num_points
    assert len(laspy.read(tmp_path / f"out/a{suffix}")) == num_points


class Killed(BaseException):
    """Ends a run as a signal would: nothing of ours handles it."""


def die(*_):
    raise Killed


def test_a_kill_before_the_list_is_written_is_no_conflict(raw, tmp_path, predictor, monkeypatch):
    from kpdeform.inference import batch

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(batch._FinishedOutputs, "add", die)
        segment_files(predictor, [raw / "a.laz"], tmp_path / "out")
    before = (tmp_path / "out/a.laz").read_bytes()
    assert len(segment_files(predictor, [raw / "a.laz"], tmp_path / "out").labelled) == 1
    assert (tmp_path / "out/a.laz").read_bytes() == before


def test_a_kill_after_the_list_is_written_leaves_nothing(raw, tmp_path, predictor, monkeypatch):
    from kpdeform.inference import segment

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(segment.shutil, "rmtree", die)
        patch.setattr(segment, "_prepare", lambda work, job: work.mkdir())
        segment_files(predictor, [raw / "a.laz"], tmp_path / "out")
    (tmp_path / "out/.a.laz.lock").touch()
    assert ".a.laz.work/cells.npz" in names(tmp_path / "out")
    assert len(segment_files(predictor, [raw / "a.laz"], tmp_path / "out").finished) == 1
    assert names(tmp_path / "out") == [".kpdeform.json", "a.laz"]


def test_two_processes_in_one_folder(raw, tmp_path, predictor):
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out/.kpdeform.lock", "the folder"):
        with pytest.raises(OSError, match=r"the folder .*out is in use by process"):
            segment_files(predictor, [raw], tmp_path / "out")


@pytest.fixture
def model(tmp_path, predictor):
    config = TINY.complete(in_channels=2, num_classes=2, cell_size=0.5)
    predictor.config = config
    predictor.save(tmp_path / "model")
    return tmp_path / "model"


def label(*arguments):
    command = [sys.executable, "-m", "kpdeform", "label", *map(str, arguments), "--device", "cpu"]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}
    )


def test_the_command_labels_a_folder_and_sums_up(raw, tmp_path, model):
    (raw / "c.las").write_bytes(b"LASF")
    done = label(raw, "--out", tmp_path / "out", "--model", model)
    assert done.returncode == 1, done.stderr
    assert "2 files labelled, 0 finished before, 1 failed; 2,800 points in" in done.stdout
    assert "1 of 3 files could not be labelled" in done.stderr and "c.las" in done.stdout
    (raw / "c.las").unlink()
    done = label(raw, "--out", tmp_path / "out", "--model", model)
    assert done.returncode == 0, done.stderr
    assert "0 files labelled, 2 finished before" in done.stdout


def test_the_command_still_takes_a_file_and_a_name(raw, tmp_path, model):
    done = label(raw / "a.laz", tmp_path / "b.laz", "--model", model)
    assert done.returncode == 0, done.stderr
    assert "1,400 points labelled" in done.stdout
    done = label(raw / "a.laz", "--model", model)
    assert done.returncode == 1 and "--out" in done.stderr


def test_a_stopped_command_says_how_to_continue(raw, tmp_path, model):
    for number in range(12):
        shutil.copy(raw / "a.laz", raw / f"many{number}.laz")
    out = tmp_path / "out"
    arguments = ["label", raw, "--out", out, "--model", model, "--device", "cpu"]
    command = [sys.executable, "-m", "kpdeform", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (out / ".kpdeform.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143 and "run the same command again to continue" in errors
    done = json.loads((out / ".kpdeform.json").read_text())["outputs"]
    again = label(raw, "--out", out, "--model", model)
    assert f"{14 - len(done)} files labelled, {len(done)} finished before, 0 failed" in again.stdout


def test_the_options_of_the_command_reach_the_file(raw, tmp_path, model):
    las = laspy.read(raw / "a.laz")
    las.classification = np.arange(len(las)) % 3
    las.write(raw / "a.laz")
    options = ["--confidence", "--map", "2=4", "6=4", "--keep", 1]
    options += ["--min-confidence=0.999", "--unsure-class=9", "--probabilities"]
    done = label(raw / "a.laz", "--out", tmp_path / "out", "--model", model, *options)
    assert done.returncode == 0, done.stderr
    assert "(unsure)" in done.stdout and "(kept)" in done.stdout
    found = laspy.read(tmp_path / "out/a.laz")
    confidence, before = np.array(found.confidence), np.array(las.classification)
    expected = np.where(before == 1, 1, np.where(confidence < np.float32(0.999), 9, 4))
    assert np.array_equal(found.classification, expected)
    names = ["confidence", "entropy", "p_a", "p_b"]
    assert list(found.point_format.extra_dimension_names) == names
    for wrong in (["--map", "2"], ["--map", "3=4"], ["--unsure-class", 3], ["--keep", "x"]):
        done = label(raw / "a.laz", "--out", tmp_path / "out", "--model", model, *wrong)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr


def test_other_formats_keep_their_kind(tmp_path, predictor):
    points, _, intensity = toy_scene(0, 1000)
    (tmp_path / "raw").mkdir()
    rows = np.c_[points, 65535 * intensity]
    np.savetxt(tmp_path / "raw/b.csv", rows, "%.3f", ",", header="x,y,z,intensity", comments="")
    rounded = read_cloud(tmp_path / "raw/b.csv")
    values = rounded.attributes["intensity"]
    np.savez(tmp_path / "raw/a.npz", points=rounded.points, intensity=values)
    summary = segment_files(
        predictor, [tmp_path / "raw"], tmp_path / "out", rules=Rules(confidence=True)
    )
    assert not summary.failed and summary.points.total == 2 * len(points)
    a, b = read_cloud(tmp_path / "out/a.npz"), read_cloud(tmp_path / "out/b.csv")
    assert set(a.attributes["classification"]) <= {2, 6}
    assert {"classification", "confidence", "entropy", "intensity"} == set(b.attributes)
    for name in ("classification", "confidence"):
        assert np.array_equal(a.attributes[name], b.attributes[name].astype(np.float32))


def test_a_team_shares_the_files(raw, tmp_path, predictor):
    """Two processes, here threads, share a store; the one that leads reports on both."""
    write(raw / "c.laz", seed=2)
    alone, shared, store = tmp_path / "alone", tmp_path / "shared", HashStore()
    segment_files(predictor, [raw], alone)

    def member(rank):
        return segment_files(predictor, [raw], shared, team=Team(store, rank, 2))

    with ThreadPoolExecutor(2) as pool:
        helper = pool.submit(member, 1)  # waits for the leader
        leader = pool.submit(member, 0)
        parts, whole = helper.result(), leader.result()
    assert sorted(path.name for path in whole.labelled) == ["a.laz", "b.las", "c.laz"]
    assert whole.points.total == 4200 and len(parts.labelled) < 3
    assert names(shared) == names(alone)
    for name in names(alone)[1:]:
        assert (shared / name).read_bytes() == (alone / name).read_bytes()
    again = segment_files(predictor, [raw], shared)
    assert len(again.finished) == 3 and again.points.total == 4200


KILLS_ITSELF = """
import os, signal, sys
from kpdeform.inference import tiling
rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
if rank == "2" and attempt == "0":
    save = tiling._save_atomically
    def save_and_die(path, **arrays):
        save(path, **arrays)
        if arrays.get("piece") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    tiling._save_atomically = save_and_die
sys.argv[0] = "kpdeform"
from kpdeform.cli import main
main()
"""


@pytest.mark.slow
def test_four_processes_of_torchrun_of_which_one_is_killed(tmp_path, model):
    for seed in range(8):
        write(tmp_path / f"raw/{seed}.laz", seed=seed)
    member = tmp_path / "member.py"
    member.write_text(KILLS_ITSELF)
    options = [tmp_path / "raw", "--model", model, "--device=cpu", "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    command = [*launch, "--max_restarts=1", member, "label", *options, tmp_path / "shared"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "0 failed; 11,200 points" in done.stdout and "exitcode: -9" in done.stderr
    assert label(*options, tmp_path / "alone").returncode == 0
    assert names(tmp_path / "shared") == names(tmp_path / "alone")
    for name in names(tmp_path / "alone")[1:]:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_several_processes_need_a_folder(raw, tmp_path, model, monkeypatch):
    names = [str(raw / "a.laz"), str(tmp_path / "b.laz"), f"--model={model}"]
    monkeypatch.setattr(sys, "argv", ["kpdeform", "label", *names])
    monkeypatch.setattr(Team, "of_torchrun", lambda: Team(HashStore(), 0, 2))
    with pytest.raises(SystemExit, match="share the files of a folder: name it with --out"):
        cli.main()
