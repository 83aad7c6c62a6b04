"""The examples run as a user runs them and show what their text says."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def printed(name):
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, check=True)
    return done.stdout


def test_noisy_training_helps_where_it_is_noisy():
    clean, noisy = (
        [float(x) for x in re.findall(r"([\d.]+)%", line)] for line in printed("noisy_training.py").splitlines()[1:]
    )
    assert clean[0] > 90
    assert noisy[1] > clean[1] + 1


def test_the_vae_reaches_the_ordinary_elbo():
    ordinary, fused = (float(x) for x in re.findall(r"digits\s+(-[\d.]+) nats", printed("digits_vae.py")))
    assert fused > -26  # after one epoch the value is -35
    assert abs(fused - ordinary) < 0.05


def test_batches_do_not_change_a_diffusion_loss():
    out = printed("diffusion.py")
    losses = [float(x) for x in re.findall(r"shuffled: ([\d.]+)", out)]
    assert len(losses) == 3
    assert max(losses) - min(losses) <= 2e-6
    low, high = (float(x) for x in re.search(r"from ([\d.]+) to ([\d.]+)", out).groups())
    assert high - low > 0.01
