"""Writes a trained network for other programs.

    kpdeform export --model runs/ign --out models/ign  # a model folder
    kpdeform export --model runs/ign --out ign.pt2     # compiled for C++

A model folder holds weights and a description, and no code.
"""

from pathlib import Path

from kpdeform.cli.options import call, imported_factory
from kpdeform.inference import Predictor
from kpdeform.inference.compiled import compile_network


def export(model: str, out: Path, half: bool = False, factory: str | None = None) -> None:
    """Writes a trained network as a model folder or, if --out ends in .pt2, compiled for C++.

    Args:
        model: Name of a packaged model, such as aerial; model folder; folder of a run; checkpoint;
            or hf://OWNER/NAME for one on the Hugging Face hub.
        out: Folder to write, for --model of the other commands and for the Hugging Face hub; or
            a file .pt2, which a C++ program loads without Python. Compiling takes minutes and needs
            a C++ compiler.
        half: Store the weights of a model folder as float16, in half the space. They are read and
            used as float32.
        factory: Import path of the function that made the model, if it was trained with your own.
    """
    if out.suffix not in ("", ".pt2"):
        raise ValueError(
            f"--out is {out}; name a folder without a suffix, or a file that ends in .pt2"
        )
    if out.suffix and half:
        raise ValueError("--half is for model folders; a compiled network computes in float32")
    predictor = Predictor.load(model, "cpu", imported_factory(factory))
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix:
        print("compiling the network for C++; this takes minutes")
        compile_network(predictor.model, len(predictor.features), out)
        print(f"{out}: load it as examples/aoti/label.cpp in the repository does")
    else:
        predictor.save(out, half=half)
        print(f"{out}: for example `kpdeform label FILES --out FOLDER --model {out}`")


def main() -> None:
    """Reads the command line."""
    call(export)
