"""Description of a model by name and arguments, as stored in configurations and checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kpdeform.models import presets
from kpdeform.models.kpcnn import KPCNN
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.models.kpnext import KPNeXt

Factory = Callable[..., nn.Module]

# The only models that a file may name. Nothing is ever imported because a file names it.
FACTORIES: dict[str, Factory] = {
    "KPCNN.from_architecture": KPCNN.from_architecture,
    "KPFCNN.from_architecture": KPFCNN.from_architecture,
    "KPNeXt": KPNeXt,
    **{
        name: function
        for name, function in vars(presets).items()
        if inspect.isfunction(function) and name.startswith("kp")
    },
}


@dataclass
class ModelConfig:
    """Which model to train.

    Args:
        factory: Name of a model of kpdeform, such as kpfcnn_small or KPFCNN.from_architecture. On
            the command line it may also be the import path of your own function, which must accept
            ``in_channels``, ``num_classes`` and ``cell_size``; their values follow from the data.
        arguments: Other keyword arguments of the factory: numbers, strings, true or false, null,
            and lists of these.

    Example:
        >>> config = ModelConfig("kpfcnn_small", {"width": 16})
        >>> model = config.complete(in_channels=2, num_classes=5, cell_size=0.1).build()
        >>> model.pyramid_spec.cell_size
        0.1
    """

    factory: str = "kpfcnn_small"
    arguments: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_record(record: Any) -> ModelConfig:
        """Makes a configuration from a mapping ``{"factory": ..., "arguments": ...}`` in a file.

        Raises:
            ValueError: The record has a different form.
        """
        if not isinstance(record, Mapping) or set(record) != {"factory", "arguments"}:
            raise ValueError(
                f"a model's record must be a mapping with factory and arguments, got {record!r}"
            )
        factory, arguments = record["factory"], record["arguments"]
        if not (isinstance(factory, str) and factory.isprintable()):
            raise ValueError(f"a model's factory must be a line of text, got {factory!r}")
        if not isinstance(arguments, Mapping) or not all(
            isinstance(name, str) and name.isidentifier() for name in arguments
        ):
            raise ValueError(f"arguments of the model {factory!r} must be a mapping of names")
        return ModelConfig(factory, dict(arguments))

    @property
    def own_factory(self) -> Factory | None:
        """The function of kpdeform that ``factory`` names, or None if it names none."""
        return FACTORIES.get(self.factory.removeprefix("kpdeform.models."))

    def complete(self, **arguments: Any) -> ModelConfig:
        """Returns a copy of the configuration with additional arguments."""
        return ModelConfig(self.factory, {**self.arguments, **arguments})

    def build(self, factory: Factory | None = None) -> nn.Module:
        """Builds the model.

        Args:
            factory: Function that builds the model. It is required if ``self.factory`` is not the
                name of a model of kpdeform. Such a name is never imported, because it may come from
                a file that somebody else wrote.

        Returns:
            The model.

        Raises:
            ValueError: ``self.factory`` is not a model of kpdeform and ``factory`` is not given, or
                the function does not accept these arguments.
        """
        factory = factory or self.own_factory
        if factory is None:
            raise ValueError(
                f"model factory {self.factory!r} is none of kpdeform's own ({', '.join(FACTORIES)})"
                "; a function of your own is given by you and not by a file: Predictor.load(path, "
                f"factory=...), or on the command line --factory {self.factory} (in a training "
                f"--model.factory {self.factory})"
            )
        for name, value in self.arguments.items():
            if not _is_plain(value):
                raise ValueError(
                    f"model {self.factory}: {name} must be a number, a text, true, false or a list "
                    f"of these, got {value!r}"
                )
        try:
            inspect.signature(factory).bind(**self.arguments)
            return factory(**self.arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model {self.factory}: {error}; got {self.arguments}") from error


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
