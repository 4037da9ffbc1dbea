"""Runs a script and sends its process a signal at the end of a training step.

python kill.py SIGNAL STEP SCRIPT [ARGUMENT ...]
"""

import os
import runpy
import signal
import sys

from kpdeform.train import SegmentationTask


def main() -> None:
    number, last_step = signal.Signals[sys.argv[1]], int(sys.argv[2])

    def die(task, outputs, batch, batch_idx):
        if task.trainer.global_step == last_step:
            os.kill(os.getpid(), number)

    SegmentationTask.on_train_batch_end = die
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
