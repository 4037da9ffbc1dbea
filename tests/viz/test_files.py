"""Files of scenes: pages, meshes, films, and strips of a training."""

import json
import re
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest

from kpdeform.viz import growth_strip, kernel_scene, render
from kpdeform.viz.offscreen import image
from kpdeform.viz.web import write_kernel


def test_a_page_is_one_file_with_all_marks(scene, tmp_path):
    pytest.importorskip("plotly")
    scene = replace(scene, title="<floor>", reason="flat")
    path = scene.save(tmp_path / "new" / "kernel.html")
    page = path.read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    for text in ("query point", "kernel point before deformation", "learned offset", "flat"):
        assert text in page
    assert "<b><floor>" not in page
    assert [file.name for file in path.parent.iterdir()] == ["kernel.html"]


def test_a_page_shows_kernels_at_large_coordinates(scene, tmp_path):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    seen = []
    figure = graph_objects.Figure
    shift = np.array([7e5, 6.6e6, 100.0])
    far = replace(
        scene, points=scene.points + shift, query=scene.query + shift,
        neighbors=scene.neighbors + shift,
        camera=replace(scene.camera, eye=scene.camera.eye + shift, target=scene.query + shift),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_objects, "Figure", lambda traces: seen.append(traces) or figure(traces))
        write_kernel(far, tmp_path / "a.html")
    marks = {
        trace.name: np.stack([trace.x, trace.y, trace.z], -1) for trace in seen[0] if trace.name
    }
    np.testing.assert_allclose(marks["kernel point after deformation"], scene.deformed, atol=1e-6)
    np.testing.assert_allclose(marks["learned offset"][1::3], scene.deformed, atol=1e-6)


def glb(path) -> dict:
    data = path.read_bytes()
    assert data[:4] == b"glTF"
    (length,) = struct.unpack("<I", data[12:16])
    return json.loads(data[20 : 20 + length])


@pytest.mark.usefixtures("offscreen")
def test_a_mesh_holds_all_that_is_drawn_around_the_query(scene, tmp_path):
    content = glb(scene.save(tmp_path / "kernel.glb"))
    (mesh,) = content["meshes"]
    attributes = mesh["primitives"][0]["attributes"]
    assert {"POSITION", "COLOR_0"} <= set(attributes)
    box = content["accessors"][attributes["POSITION"]]
    size = np.array(box["max"]) - box["min"]
    assert size[0] >= np.ptp(scene.points[:, 0])
    assert box["min"][0] < 0 < box["max"][0] and box["count"] > len(scene.points)


@pytest.fixture(params=[".gif", ".mp4"])
def suffix(request) -> str:
    if request.param == ".mp4":
        pytest.importorskip("av")
    return request.param


def pictures_of(path) -> tuple[list[np.ndarray], float]:
    """Pictures (height, width, 3) and length in seconds of a film."""
    if path.suffix == ".mp4":
        with pytest.importorskip("av").open(str(path)) as film:
            pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
            return pictures, film.duration / 1e6
    image = pytest.importorskip("PIL.Image")
    sequence = pytest.importorskip("PIL.ImageSequence")
    with image.open(path) as film:
        frames = [(np.array(f.convert("RGB")), f.info["duration"]) for f in sequence.Iterator(film)]
    return [picture for picture, _ in frames], sum(duration for _, duration in frames) / 1000


@pytest.mark.usefixtures("offscreen")
def test_a_film_turns_and_comes_back(scene, tmp_path, suffix):
    path = scene.turntable(tmp_path / "new" / f"film{suffix}", frames=5, size=(80, 60))
    pictures, seconds = pictures_of(path)
    assert seconds == pytest.approx(5, abs=0.01)
    assert [picture.shape for picture in pictures] == 5 * [(60, 80, 3)]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    for picture, angle in zip(pictures, np.sin(2 * np.pi * np.arange(5) / 5), strict=True):
        camera = scene.camera.turned(scene.query, np.radians(45) * angle)
        expected = image(replace(scene, camera=camera), (80, 60)).astype(float)
        assert abs(picture - expected).mean() < 6  # light is that of the first view
    assert abs(pictures[0].astype(float) - pictures[1]).mean() > 9


def test_other_films_are_refused(scene, tmp_path):
    with pytest.raises(ValueError, match=r"film.avi; it must end in \.gif or \.mp4"):
        scene.turntable(tmp_path / "film.avi")
    with pytest.raises(ValueError, match="frames must be at least 1"):
        scene.turntable(tmp_path / "film.gif", frames=0)
    with pytest.raises(ValueError, match=r"size is \(81, 60\); .* must be even"):
        scene.turntable(tmp_path / "film.mp4", size=(81, 60))


def test_a_film_without_its_library_says_what_to_install(scene, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"needs av.*pip install 'kpdeform\[video\]'"):
        scene.turntable(tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("offscreen")
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_scenes_save_pictures_and_show_themselves(scene, tmp_path, suffix):
    path = scene.save(tmp_path / f"a{suffix}")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert scene._repr_png_().startswith(b"\x89PNG")
    assert render(scene, size=(120, 90)).shape[2] == 3
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg, \.html or \.glb"):
        scene.save(tmp_path / "a.jpg")


@pytest.mark.usefixtures("offscreen")
def test_a_strip_shows_one_query_from_one_place(scene, corner, tmp_path):
    grown = replace(scene, deformed=1.4 * scene.deformed, title="step 2")
    path = growth_strip([scene, grown], tmp_path / "strip.png", size=(160, 120), title="growth")
    assert path.read_bytes().startswith(b"\x89PNG")
    other = kernel_scene(corner, corner[3], scene.rigid, scene.deformed, sigma=0.15)
    with pytest.raises(ValueError, match="different query points"):
        growth_strip([scene, other], tmp_path / "strip.png")
    with pytest.raises(ValueError, match="scenes is empty"):
        growth_strip([], tmp_path / "strip.png")
