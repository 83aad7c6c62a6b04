"""Three lines, marked 1 to 3, add noise to an ordinary training loop; the digit classifier stays accurate at 0 dB.

Run `python examples/noisy_training.py`. It takes a few seconds and needs scikit-learn.
"""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from nmer_fast import ops  # 1

EPOCHS, BATCH, ALPHA_BAR = 30, 128, 0.5  # alpha_bar 0.5 is 0 dB, equal powers of noise and signal

digits = load_digits()
x = torch.tensor(digits.data, dtype=torch.float32)
x = (x - x[:1200].mean()) / x[:1200].std()
y = torch.tensor(digits.target)
train, test = torch.arange(1200), torch.arange(1200, len(x))


def trained(noisy: bool) -> torch.nn.Module:
    """Train a classifier in an ordinary loop, on clean or on noisy digits."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(EPOCHS):
        for ids in train[torch.randperm(len(train))].split(BATCH):
            features = x[ids]
            if noisy:
                alpha_bar = 1 - (1 - ALPHA_BAR) * torch.rand(len(ids))  # 2: a level for each sample, clean to 0 dB
                features = ops.add_noise(features, alpha_bar, seed=0, draw=epoch, sample_ids=ids)  # 3
            optimizer.zero_grad()
            F.cross_entropy(model(features), y[ids]).backward()
            optimizer.step()
    return model


def accuracy(model: torch.nn.Module, features: torch.Tensor) -> float:
    """Return the share of test digits that are classified correctly."""
    with torch.inference_mode():
        return (model(features).argmax(1) == y[test]).float().mean().item()


noisy_test = ops.add_noise(x[test], ALPHA_BAR, seed=1, sample_ids=test)
print(f"{'trained on':12}{'clean test':>12}{'test at 0 dB':>14}")
for name, noisy in (("clean", False), ("noisy", True)):
    model = trained(noisy)
    print(f"{name:12}{accuracy(model, x[test]):12.1%}{accuracy(model, noisy_test):14.1%}")
