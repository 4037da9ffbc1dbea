"""Stages of ``make gpu-check``: what only a GPU can show, one module per stage.

    python -m benchmarks.gpu.kernels [--dry-run]

Every stage prints its results as it goes, so that one that is stopped leaves what it has measured.
``--dry-run`` runs it on the CPU at small size.
"""
