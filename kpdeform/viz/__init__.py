"""Pictures of clouds and of kernels before and after deformation, in a window or as files.

:func:`capture_deformations` and :func:`choose_queries` find what is worth a look,
:func:`kernel_scene` describes it as plain data, and :func:`show`, :func:`render` and
:func:`contact_sheet` draw it with Open3D and matplotlib (``pip install 'kpdeform[viz]'``). Scenes
save themselves as pictures, pages, meshes and films. :func:`cloud_scene` is a whole cloud.
"""

from kpdeform.viz.browser import Browser
from kpdeform.viz.camera import Camera
from kpdeform.viz.capture import LayerDeformation, capture_deformations
from kpdeform.viz.choice import Choice, choose_queries
from kpdeform.viz.clouds import CloudScene, cloud_scene
from kpdeform.viz.colors import by_height, by_label
from kpdeform.viz.grids import (
    GridDeformation,
    capture_grids,
    draw_grid,
    render_grids,
    sampled_positions,
    telling_sites,
)
from kpdeform.viz.growth import growth_strip
from kpdeform.viz.scene import KernelScene, kernel_scene
from kpdeform.viz.scene_data import ITEMS
from kpdeform.viz.sheet import contact_sheet, render
from kpdeform.viz.window import show, show_cloud

__all__ = [
    "ITEMS",
    "Browser",
    "Camera",
    "Choice",
    "CloudScene",
    "GridDeformation",
    "KernelScene",
    "LayerDeformation",
    "by_height",
    "by_label",
    "capture_deformations",
    "capture_grids",
    "choose_queries",
    "cloud_scene",
    "contact_sheet",
    "draw_grid",
    "growth_strip",
    "kernel_scene",
    "render",
    "render_grids",
    "sampled_positions",
    "show",
    "show_cloud",
    "telling_sites",
]
