"""Two gloo processes train as one would on their batches put together, and stop together."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kpdeform.data import PointBatch, build_pyramid
from kpdeform.train.tasks import sqrt_inverse_weights
from tests.toy import ROOT, config, run_python  # noqa: F401
from tests.train.ddp import make


def joined(batches):
    fields = ("points", "features", "lengths", "labels")
    return PointBatch(*(torch.cat([getattr(b, f) for b in batches]) for f in fields))


def test_two_processes_equal_one_on_the_joined_batch(toy, tmp_path):
    worker = Path(__file__).with_name("ddp.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    done = run_python(*launcher, worker, toy, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for part in ("weights", "gradients"):
        for name, value in ranks[0][part].items():
            assert torch.equal(value, ranks[1][part][name]), name

    task, module = make(toy)
    source = module.train_batches()
    weights = sqrt_inverse_weights(module.class_counts().float())
    optimizer = task.optimizer_setup.build(task.model, 2).optimizer
    for step in range(2):  # the ranks take batches 0 and 1, then 2 and 3
        batch = joined([source[2 * step], source[2 * step + 1]])
        assert len(source[2 * step].labels) != len(source[2 * step + 1].labels)
        logits, _ = task.model(build_pyramid(batch, task.model.pyramid_spec), batch.features)
        optimizer.zero_grad()
        F.cross_entropy(logits, batch.labels, weights, ignore_index=-1).backward()
        optimizer.step()
    for name, parameter in task.model.named_parameters():
        torch.testing.assert_close(
            ranks[0]["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6
        )
        torch.testing.assert_close(ranks[0]["weights"][name], parameter.data, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_two_processes_saves_one_checkpoint_to_go_on_from(config, tmp_path, name):  # noqa: F811
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "--"]
    script = ROOT / "scripts" / "train_segmentation.py"
    run = tmp_path / "run"
    command = ["--config", config, "--run", run, "--max_steps", 10]
    kill = Path(__file__).with_name("kill.py")
    stopped = run_python(*launcher, kill, name, 3, script, *command)
    assert stopped.returncode == 1  # the launcher's own code
    assert stopped.stderr.count("stopped at step 4; continue with --resume") == 2
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
    done = run_python(*launcher, script, *command, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 10
