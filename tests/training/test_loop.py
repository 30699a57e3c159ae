"""The training loop on a model of one weight, where every step can be told beforehand."""

import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState


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

        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()
        args = Namespace(
            learning_rate=0.1, lr_scheduler="constant", lr_warmup_steps=0, max_train_steps=6, max_train_minutes=None,
            gradient_accumulation_steps=1, dataloader_num_workers=0, ema_decay=0.5, seed=0, checkpointing_steps=100,
            checkpoints_total_limit=None, resume_from_checkpoint=None, output_dir=run.folder,
        )  # fmt: skip
        vars(args).update(options)
        model, seen = OneWeight(), []

        def loss_of(model, batch, rng, step):
            seen.append((float(batch[0]), float(model.weight.detach())))
            return loss(model(batch[0])), {}

        exported = []
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
        train(args, accelerator, model, batch_of, loss_of, lambda model, step: exported.append(step), 0.0)
        return seen, float(model.weight.detach()), exported

    run.folder = tmp_path / "run"
    return run


def test_batches_are_those_of_their_step(run):
    """Whoever draws them, and wherever a run starts: a resumed run is the uninterrupted one, to the last bit."""

    def batch_of(rng):
        return (torch.tensor([rng.random()]),)

    options = {"gradient_accumulation_steps": 2, "checkpointing_steps": 4}
    seen, weight, exported = run(batch_of, **options)
    expected = [np.random.default_rng((0, step, part, 0)).random() for step in range(6) for part in range(2)]
    assert [value for value, _ in seen] == pytest.approx(expected, rel=1e-6)
    assert exported == [4, 6]
    again = run(batch_of, dataloader_num_workers=2, resume_from_checkpoint=run.folder / "checkpoint-4", **options)
    assert again == (seen[8:], weight, [6])


def test_a_batch_that_gives_nan_changes_nothing(run):
    inputs = iter([1.0, math.nan, 1.0, math.inf, 1.0, 1.0])
    seen, weight, _ = run(lambda rng: (torch.tensor([next(inputs)]),))
    weights = [w for _, w in seen] + [weight]
    assert all(map(math.isfinite, weights))
    assert weights[1] == weights[2] and weights[3] == weights[4]  # before and after
    assert weights[0] > weights[1] > weights[3] > weights[5] > weights[6]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_of_nan_ends_with_advice(parts, run):
    with pytest.raises(SystemExit, match="20 steps running, up to step 19.*--learning_rate"):
        run(lambda rng: (torch.tensor([math.nan]),), max_train_steps=50, gradient_accumulation_steps=parts)


@pytest.fixture
def clock(monkeypatch):
    """The time, which stands still: seconds since the start of the script."""
    import clock

    now = [0.0]
    monkeypatch.setattr(clock, "STARTED", 100.0)
    monkeypatch.setattr(clock.time, "monotonic", lambda: 100.0 + now[0])
    return now


def test_the_clock_ends_a_run_and_lowers_its_learning_rate(run, clock):
    """A second a step, after five seconds of reading; resumed, the seconds go on.

    With AdamW and a loss of constant sign, each step is as long as the learning rate.
    """

    def batch_of(rng):
        clock[0] += 1.0
        return (torch.ones(1),)

    options = {"loss": lambda predicted: predicted.mean(), "max_train_minutes": 15 / 60, "lr_scheduler": "linear"}
    options |= {"lr_warmup_steps": 2, "checkpointing_steps": 6}
    clock[0] = 5.0
    seen, weight, exported = run(batch_of, **options)
    assert len(seen) == 10 and exported == [6, 10]
    weights = [w for _, w in seen] + [weight]
    steps = [before - after for before, after in zip(weights, weights[1:], strict=False)]
    expected = [0.0, 0.05 * 0.9] + [0.1 * (1 - second / 10) for second in range(2, 10)]
    assert steps == pytest.approx(expected, rel=1e-3, abs=1e-6)
    clock[0] = 0.0
    again = run(batch_of, resume_from_checkpoint=run.folder / "checkpoint-6", **options)
    assert again[0] == seen[6:] and again[1] == pytest.approx(weight)


def test_a_resumed_run_may_be_given_more_minutes(clock):
    """The learning rate then goes on from what is done of the new ones, without those of the encoding."""
    from clock import TrainingClock

    first = TrainingClock(Namespace(max_train_minutes=10))
    clock[0] = 300.0
    first.begin()
    clock[0] = 540.0
    assert first.part_of_training() == pytest.approx(4 / 5)
    state = first.state_dict()
    clock[0] = 0.0
    second = TrainingClock(Namespace(max_train_minutes=20))
    second.load_state_dict(state)
    second.begin()
    assert second.part_of_training() == pytest.approx(4 / 15)


def test_a_clock_that_runs_out_before_the_first_step_is_an_error(run, clock):
    clock[0] = 61.0
    with pytest.raises(SystemExit, match="1 minutes were over before the first step"):
        run(lambda rng: (torch.ones(1),), max_train_minutes=1.0)
