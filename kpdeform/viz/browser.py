"""Which of several scenes is looked at, and what of it; knows nothing of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kpdeform.viz.scene_data import ITEMS, SceneData

KEYS = "NBLR" + "".join(str(i) for i in range(1, len(ITEMS) + 1))


@dataclass
class Browser:
    """Which scene is shown and what of it.

    Attributes:
        scenes: All scenes; those with the same ``layer`` belong together.
        layer: Number of the layer shown.
        point: Number of the scene shown among those of its layer.
        hidden: Items that are not drawn.

    Raises:
        ValueError: There are no scenes.

    Example:
        >>> from kpdeform.viz.scene import kernel_scene
        >>> x = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        >>> browser = Browser([kernel_scene(x, [0, 0, z], x, x, sigma=1.0) for z in (0.0, 5.0)])
        >>> browser.next_point()
        >>> browser.scene.query.tolist()
        [0.0, 0.0, 5.0]
    """

    scenes: Sequence[SceneData]
    layer: int = 0
    point: int = 0
    hidden: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.scenes:
            raise ValueError("show: scenes is empty")

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order in which the scenes have them."""
        return list(dict.fromkeys(scene.layer for scene in self.scenes))

    @property
    def scenes_of_layer(self) -> list[SceneData]:
        """Scenes of the layer shown."""
        return [scene for scene in self.scenes if scene.layer == self.layers[self.layer]]

    @property
    def scene(self) -> SceneData:
        """The scene shown."""
        return self.scenes_of_layer[self.point]

    @property
    def status(self) -> str:
        """One line that says what is shown."""
        scene, count = self.scene, len(self.scenes_of_layer)
        hidden = f", without {', '.join(sorted(self.hidden))}" if self.hidden else ""
        place = f"{scene.layer}: point {self.point + 1} of {count}, {scene.title}"
        return f"{place}; {scene.caption}{hidden}"

    def next_point(self, step: int = 1) -> None:
        """Goes to the next point of the layer, or with -1 to the previous; round and round."""
        self.point = (self.point + step) % len(self.scenes_of_layer)

    def next_layer(self) -> None:
        """Goes to the next layer, to the same point there if it has it."""
        self.layer = (self.layer + 1) % len(self.layers)
        self.point = min(self.point, len(self.scenes_of_layer) - 1)

    def toggle(self, item: str) -> None:
        """Hides an item, or shows it again."""
        self.hidden ^= {item}

    def press(self, key: str) -> bool:
        """Does what one of :data:`KEYS` stands for.

        Args:
            key: A capital letter or a digit.

        Returns:
            Whether the camera goes to the scene's own place.
        """
        if key.isdigit():
            self.toggle(ITEMS[int(key) - 1])
        elif key == "L":
            self.next_layer()
        elif key in "NB":
            self.next_point(1 if key == "N" else -1)
        return not key.isdigit()
