"""The training loop on a model of one weight, where every step can be told beforehand."""

import math
from argparse import Namespace

import pytest
import torch
from accelerate import Accelerator


class OneWeight(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.weight * x


@pytest.fixture
def run(tmp_path):
    """Train one weight; return each step's input and the weight it met, what the weight became, and the exports."""

    def run(batch_of, loss=lambda predicted: predicted.square().mean(), **options):
        from loop import train

        args = Namespace(
            learning_rate=0.1, lr_scheduler="constant", lr_warmup_steps=0, max_train_steps=6, max_train_minutes=None,
            gradient_accumulation_steps=1, dataloader_num_workers=0, ema_decay=0.5, seed=0, checkpointing_steps=100,
            checkpoints_total_limit=None, resume_from_checkpoint=None, output_dir=tmp_path / "run",
        )  # fmt: skip
        vars(args).update(options)
        model, seen = OneWeight(), []

        def loss_of(model, batch, rng, step):
            seen.append((float(batch[0]), float(model.weight.detach())))
            return loss(model(batch[0])), {}

        exported = []
        train(args, Accelerator(cpu=True), model, batch_of, loss_of, lambda model, step: exported.append(step), 0.0)
        return seen, float(model.weight.detach()), exported

    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_their_step(workers, run):
    """Whoever draws them, and wherever a run starts: the generator is seeded by the step."""
    import numpy as np

    seen, _, exported = run(lambda rng: (torch.tensor([rng.random()]),), dataloader_num_workers=workers)
    expected = [np.random.default_rng((0, step, 0, 0)).random() for step in range(6)]
    assert [value for value, _ in seen] == pytest.approx(expected, rel=1e-6)
    assert exported == [6]


def test_a_batch_that_gives_nan_changes_nothing(run):
    inputs = iter([1.0, math.nan, 1.0, math.inf, 1.0, 1.0])
    seen, weight, _ = run(lambda rng: (torch.tensor([next(inputs)]),))
    weights = [w for _, w in seen] + [weight]
    assert all(map(math.isfinite, weights))
    assert weights[1] == weights[2] and weights[3] == weights[4]  # before and after
    assert weights[0] > weights[1] > weights[3] > weights[5] > weights[6]


def test_a_run_of_nan_ends_with_advice(run):
    with pytest.raises(SystemExit, match="20 batches running, the last in step 19.*--learning_rate"):
        run(lambda rng: (torch.tensor([math.nan]),), max_train_steps=50)


def test_the_clock_ends_a_run_and_lowers_its_learning_rate(run, monkeypatch):
    """A second a step: with AdamW and a loss of constant sign, each step is as long as the learning rate."""
    import loop

    now = [100.0]
    monkeypatch.setattr(loop, "STARTED", 100.0)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])

    def batch_of(rng):
        now[0] += 1.0
        return (torch.ones(1),)

    seen, weight, exported = run(
        batch_of, loss=lambda predicted: predicted.mean(), max_train_minutes=10 / 60, lr_scheduler="linear"
    )
    assert len(seen) == 10 and exported == [10]
    weights = [w for _, w in seen] + [weight]
    steps = [before - after for before, after in zip(weights, weights[1:], strict=False)]
    assert steps == pytest.approx([0.1] + [0.1 * (1 - second / 10) for second in range(1, 10)], rel=1e-3)
