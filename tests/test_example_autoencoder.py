"""The training example: a run that was killed goes on with the losses of one that was not."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.small_set import make_small_set

EXAMPLE = Path(__file__).parents[1] / "examples" / "train_autoencoder.py"


def command(shards: Path, checkpoint: Path) -> list[str]:
    options = ["--steps", "24", "--batch-size", "16", "--save-every", "5", "--print-every", "1", "--checkpoint", str(checkpoint)]
    return [sys.executable, str(EXAMPLE), str(shards), *options]


def losses(text: str) -> dict[int, str]:
    return {int(step): loss for step, loss in re.findall(r"step (\d+) loss (\S+)", text)}


def test_a_killed_run_goes_on_with_the_same_losses(tmp_path):
    shards = make_small_set(tmp_path / "set").path
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    whole = subprocess.run(command(shards, tmp_path / "whole.pt"), capture_output=True, text=True, check=True, env=env)
    wanted = losses(whole.stdout)
    assert list(wanted) == list(range(1, 25))

    broken = subprocess.Popen(command(shards, tmp_path / "broken.pt"), stdout=subprocess.PIPE, text=True, env=env)
    assert broken.stdout is not None
    seen = {}
    for line in broken.stdout:
        seen |= losses(line)
        if 13 in seen:
            broken.send_signal(signal.SIGKILL)
            break
    broken.wait()
    assert all(wanted[step] == loss for step, loss in seen.items())

    resumed = subprocess.run(command(shards, tmp_path / "broken.pt"), capture_output=True, text=True, check=True, env=env)
    assert re.search(r"going on from step (10|15|20)", resumed.stdout)
    assert losses(resumed.stdout) == {step: loss for step, loss in wanted.items() if step >= min(losses(resumed.stdout))}
    assert max(losses(resumed.stdout)) == 24
