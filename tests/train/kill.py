"""Runs a script and kills the process by SIGKILL at the end of a training step.

python kill.py STEP SCRIPT [ARGUMENT ...]
"""

import os
import runpy
import signal
import sys

from kpdeform.train import SegmentationTask


def main() -> None:
    last_step = int(sys.argv[1])

    def die(task, outputs, batch, batch_idx):
        if task.trainer.global_step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    SegmentationTask.on_train_batch_end = die
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
