"""The cache of thinned scenes: equal batches, never stale, never half-written, shared, small."""

import errno
import io
import json
import multiprocessing
import os
import pickle
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kpdeform.data import (
    DatasetInfo,
    MemoryScenes,
    SceneDataset,
    SceneWriter,
    open_dataset,
    scene_cache,
)

INFO = DatasetInfo("toy", ("a", "b"), feature_names=("red",), ignored_label=99)
OPTIONS = {"cell_size": 0.1, "radius": 0.8, "batches_per_epoch": 4, "max_points": 1500}
FIELDS = ("points", "features", "lengths", "labels", "origins", "indices", "scenes", "weights")


def write(root, names=("one", "two"), seed=0, **options):
    """Writes scenes, of which "none" is empty; world coordinates are large."""
    with SceneWriter(root, INFO, **options) as writer:
        for number, name in enumerate(names):
            rng = np.random.default_rng(seed + number)
            n = 0 if name == "none" else 3000
            points = rng.random((n, 3)) * 3 + [652_000.25, 6_862_000.5, 35.0]
            red = rng.integers(0, 256, (n, 1)).astype(np.uint8)
            writer.write("train", name, points, rng.choice([0, 1, 99], n), red)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "set", ("none", "one", "two"))
    return tmp_path / "set"


def in_memory(root, **options):
    source = open_dataset(root)
    scenes = MemoryScenes(source.info, {"train": list(source.scenes("train"))})
    return SceneDataset(scenes, "train", **OPTIONS | options)


def cached(root, **options):
    """The data set, whose files must be cached already."""
    before = {path: path.stat().st_mtime_ns for path in (root / ".cache").iterdir()}
    dataset = SceneDataset(root, "train", **OPTIONS | options)
    assert before == {path: path.stat().st_mtime_ns for path in (root / ".cache").iterdir()}
    return dataset


def assert_equal(left, right):
    assert len(left) == len(right)
    for index in range(len(left)):
        a, b = left[index], right[index]
        for name in FIELDS:
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None and y is None) or (x.dtype == y.dtype and torch.equal(x, y)), name


@pytest.mark.parametrize("crop", ["sphere", "cylinder", "none"])
@pytest.mark.parametrize("sampling", ["potential", "balanced", "random", "coverage"])
def test_batches_are_the_same_bits_as_in_memory(root, crop, sampling):
    options = {"crop": crop, "sampling": sampling, "features": ("red", "height", "z")}
    memory, first = in_memory(root, **options), SceneDataset(root, "train", **OPTIONS | options)
    mapped = cached(root, **options)
    for epoch in (0, 3):
        for dataset in (memory, first, mapped):
            dataset.set_epoch(epoch)
        assert_equal(memory, first)
        assert_equal(memory, mapped)
    assert mapped.points_per_cell == memory.points_per_cell
    assert torch.equal(mapped.class_counts, memory.class_counts)
    for one, other in zip(mapped.scenes, memory.scenes, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.labels, other.labels)
        assert torch.equal(one.features, other.features) and torch.equal(one.origin, other.origin)


def test_opening_from_the_cache_reads_no_scene(root, monkeypatch):
    SceneDataset(root, "train", **OPTIONS)
    monkeypatch.setattr("kpdeform.data.scenes._read_scene", None)
    monkeypatch.setattr("kpdeform.data.scene_cache._MappedScenes.__getitem__", None)
    dataset = SceneDataset(root, "train", **OPTIONS)
    assert len(dataset) == 4 and dataset.class_counts.shape == (3, 2)
    with pytest.raises(TypeError, match="NoneType"):
        dataset[0]


def test_every_setting_has_its_own_arrays(root):
    changes = [{}, {"cell_size": 0.2}, {"features": ("red",)}, {"radius": 1.5}]
    changes += [{"crop": "cylinder"}, {"crop": "none"}]
    large = {"sampling": "coverage", "radius": 1.5}
    changes += [large, large | {"reach": 0.5}, large | {"crop": "cylinder"}]
    made = [SceneDataset(root, "train", **OPTIONS | change) for change in changes]
    for dataset, change in zip(made, changes, strict=True):
        assert_equal(dataset, in_memory(root, **change))
        assert_equal(dataset, cached(root, **change))


@pytest.mark.parametrize("overwrite", [True, False])
def test_scenes_prepared_again_are_thinned_again(root, overwrite):
    SceneDataset(root, "train", **OPTIONS)
    again = {"overwrite": True} if overwrite else {"keep": lambda *_: False}
    write(root, seed=7, **again)
    assert not list((root / ".cache").iterdir())
    assert_equal(SceneDataset(root, "train", **OPTIONS), in_memory(root))


@pytest.mark.parametrize("array", ["points", "features", "labels"])
def test_scene_files_replaced_by_hand_are_noticed(root, array):
    SceneDataset(root, "train", **OPTIONS | {"features": ("red",)})
    path = root / "scenes" / "train" / "one" / f"{array}.npy"
    time.sleep(0.01)  # the clock of some file systems is coarse
    np.save(path, np.load(path)[::-1])
    dataset = SceneDataset(root, "train", **OPTIONS | {"features": ("red",)})
    assert_equal(dataset, in_memory(root, features=("red",)))


def test_a_scene_without_labels_any_more_is_noticed(root):
    SceneDataset(root, "train", **OPTIONS)
    (root / "scenes" / "train" / "one" / "labels.npy").unlink()
    assert SceneDataset(root, "train", **OPTIONS).scenes[1].labels is None


@pytest.mark.parametrize("damage", ["empty", "short", "shorter", "ending", "index", "position"])
def test_a_damaged_file_is_made_anew(root, damage):
    expected = in_memory(root)
    SceneDataset(root, "train", **OPTIONS)
    for path in (root / ".cache").iterdir():
        content = bytearray(path.read_bytes())
        if damage == "ending":
            content[-1] ^= 1
        elif damage == "index":
            content[-200] ^= 1
        elif damage == "position":
            content[-16:-8] = b"\xff" * 8
        else:
            content = content[: {"empty": 0, "short": 9, "shorter": 4000}[damage]]
        path.write_bytes(content)
    assert_equal(SceneDataset(root, "train", **OPTIONS), expected)
    assert_equal(cached(root), expected)


def test_files_cut_short_after_the_index_was_moved_are_refused(root):
    """An index whose arrays do not lie within the file."""
    SceneDataset(root, "train", **OPTIONS)
    for path in (root / ".cache").iterdir():
        content = path.read_bytes()
        position = int.from_bytes(content[-16:-8], "little")
        path.write_bytes(content[position:-16] + (0).to_bytes(8, "little") + content[-8:])
    assert_equal(SceneDataset(root, "train", **OPTIONS), in_memory(root))


def test_a_file_with_python_objects_is_refused(root):
    SceneDataset(root, "train", **OPTIONS)
    for path in (root / ".cache").iterdir():
        arrays = {"offsets": np.zeros((1, 1), int), "lengths": np.ones((1, 1), int), "state": "s"}
        index = io.BytesIO()
        np.savez(index, layout=json.dumps([["points", "O", []]]), **arrays)
        trailer = (64).to_bytes(8, "little") + path.read_bytes()[-8:]
        path.write_bytes(bytes(64) + index.getvalue() + trailer)
        with pytest.raises(ValueError, match="holds Python objects"):
            scene_cache._map(path, "s")


def _killed(root):
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    thin, calls = SceneDataset._thin, []

    def thin_or_die(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return thin(*arguments)

    SceneDataset._thin = thin_or_die
    SceneDataset(root, "train", **OPTIONS)


def test_a_killed_writer_leaves_nothing_that_is_read(root):
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(root,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {path.name[0] for path in (root / ".cache").glob("*.bin")} == {"."}  # the partial file
    assert_equal(SceneDataset(root, "train", **OPTIONS), in_memory(root))
    assert {path.suffix for path in (root / ".cache").iterdir()} == {".bin"}


def test_ctrl_c_leaves_nothing(root, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SceneDataset, "_thin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SceneDataset(root, "train", **OPTIONS)
    assert not list((root / ".cache").iterdir())


def assert_falls_back(root, words):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = SceneDataset(root, "train", **OPTIONS)
    (warning,) = caught  # one, though several files cannot be written
    assert words in str(warning.message)
    assert "make room or make the folder writable" in str(warning.message)
    assert_equal(dataset, in_memory(root))


def test_a_full_disk_falls_back_to_memory(root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scene_cache, "_append", full)
    assert_falls_back(root, "No space left")
    assert not list((root / ".cache").iterdir())


def test_a_folder_that_cannot_be_written_falls_back_to_memory(root):
    (root / ".cache").write_text("a file stands in the way, which stops root as well")
    assert_falls_back(root, "cannot be stored")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_falls_back_to_memory(root):
    root.chmod(0o555)
    assert_falls_back(root, "Permission denied")
    root.chmod(0o755)


def test_a_read_only_folder_with_a_cache_needs_no_writing(root, monkeypatch):
    SceneDataset(root, "train", **OPTIONS)
    monkeypatch.setattr(scene_cache, "lock", None)
    monkeypatch.setattr(scene_cache, "replacing", None)
    assert_equal(SceneDataset(root, "train", **OPTIONS), in_memory(root))


def test_the_cache_may_be_a_link_to_another_disk(root, tmp_path):
    (tmp_path / "large").mkdir()
    (root / ".cache").symlink_to(tmp_path / "large")
    SceneDataset(root, "train", **OPTIONS)
    assert list((tmp_path / "large").glob("thinned-*.bin"))
    write(root, seed=7, overwrite=True)
    assert (root / ".cache").is_symlink() and not list((tmp_path / "large").iterdir())


def _first_batch(root, made, results):
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    thin = SceneDataset._thin

    def counted(*arguments):
        made.put(os.getpid())
        return thin(*arguments)

    SceneDataset._thin = counted
    results.put(SceneDataset(root, "train", **OPTIONS)[0].points.numpy())


def test_processes_that_start_together_share_one_cache(root):
    context = multiprocessing.get_context("fork")
    made, results = context.Queue(), context.Queue()
    ranks = [context.Process(target=_first_batch, args=(root, made, results)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join()
    expected = in_memory(root)[0].points.numpy()
    assert all(np.array_equal(points, expected) for points in found)
    makers = [made.get(timeout=9) for _ in range(3)]
    assert len(set(makers)) == 1 and made.empty()  # one process thinned each scene once
    assert {path.suffix for path in (root / ".cache").iterdir()} == {".bin"}


def test_a_pickled_data_set_carries_no_arrays(root):
    dataset = SceneDataset(root, "train", **OPTIONS)
    text = pickle.dumps(dataset)
    assert len(text) < 10_000
    assert_equal(pickle.loads(text), dataset)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_get_the_same_batches(root, method):
    dataset = SceneDataset(root, "train", **OPTIONS)
    options = {"batch_size": None, "num_workers": 1, "multiprocessing_context": method}
    assert_equal(list(DataLoader(dataset, **options)), dataset)


@pytest.mark.parametrize("sampling", ["potential", "balanced", "random", "coverage"])
def test_of_a_large_file_only_what_is_needed_is_read_and_held(root, sampling, monkeypatch):
    memory = in_memory(root, sampling=sampling)
    SceneDataset(root, "train", **OPTIONS, sampling=sampling)
    calls = []
    advise = scene_cache._LargeFile._advise
    monkeypatch.setattr(
        scene_cache._LargeFile, "_advise", lambda *a: (calls.append(a[1:]), advise(*a))
    )
    monkeypatch.setattr(scene_cache, "_LARGE", 1000)
    monkeypatch.setattr(scene_cache, "_HELD", 100_000)
    dataset = cached(root, sampling=sampling)
    for epoch in (0, 1):
        memory.set_epoch(epoch)
        dataset.set_epoch(epoch)
        assert_equal(dataset, memory)
    assert {name for name, *_ in calls} == {"MADV_RANDOM", "MADV_WILLNEED", "MADV_DONTNEED"}
    (path,) = (root / ".cache").glob("thinned-*.bin")
    where = [place for name, *place in calls if name == "MADV_WILLNEED"]
    assert all(begin >= 0 and begin + length <= path.stat().st_size for begin, length in where)
