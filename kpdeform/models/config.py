"""A model named by an import path and keyword arguments: in configurations and checkpoints."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn


@dataclass
class ModelConfig:
    """Which model to train.

    Args:
        factory: Import path of a class, class method or function that returns a model; it takes
            ``in_channels``, ``num_classes`` and ``cell_size``, which follow from the data.
        arguments: Its other keyword arguments.

    Example:
        >>> config = ModelConfig("kpdeform.models.kpfcnn_small", {"width": 16})
        >>> model = config.complete(in_channels=2, num_classes=5, cell_size=0.1).build()
        >>> model.pyramid_spec.cell_size
        0.1
    """

    factory: str = "kpdeform.models.kpfcnn_small"
    arguments: dict[str, Any] = field(default_factory=dict)

    def complete(self, **arguments: Any) -> ModelConfig:
        """Returns the configuration with further arguments."""
        return ModelConfig(self.factory, {**self.arguments, **arguments})

    def build(self) -> nn.Module:
        """Makes the model.

        Raises:
            ValueError: The factory does not exist, or does not take these arguments.
        """
        factory = _import(self.factory)
        try:
            inspect.signature(factory).bind(**self.arguments)
        except TypeError as error:
            raise ValueError(f"model {self.factory}: {error}; got {self.arguments}") from error
        return factory(**self.arguments)


def _import(path: str) -> Any:
    """The object at a dotted path: a name in a module, or in a class in a module."""
    module, _, names = path.partition(".")
    found = import_module(module) if module else None
    for name in names.split("."):
        if not hasattr(found, name) and inspect.ismodule(found):
            module = f"{found.__name__}.{name}"
            try:
                import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise  # the module is there, something that it imports is not
        found = getattr(found, name, None)
    if found is None:
        raise ValueError(f"model factory {path!r}: there is no such class or function")
    return found
