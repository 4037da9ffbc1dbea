"""Runs a script and sends its processes a signal at the end of a training step.

The signal reaches the loader processes too, as that of a terminal or of a job scheduler does.

python kill.py SIGNAL STEP SCRIPT [ARGUMENT ...]
"""

import os
import runpy
import signal
import sys

from kpdeform.train import SegmentationTask


def main() -> None:
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)  # a group of its own, without the tests
    number, last_step = signal.Signals[sys.argv[1]], int(sys.argv[2])

    def die(task, outputs, batch, batch_idx):
        if task.trainer.global_step == last_step:
            os.killpg(0, number)

    SegmentationTask.on_train_batch_end = die
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
