"""The training loop on a model of one weight, where every step can be told beforehand."""

import math
from argparse import Namespace

import numpy as np
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
def run(tmp_path, forget_accelerator):
    """Train one weight; return each step's input and the weight it met, what the weight became, and the exports.

    `run.averages` are the weights that were exported, `run.draws` the first number of each loss's own generator.
    """

    def run(batch_of, loss=lambda predicted: predicted.square().mean(), **options):
        from loop import train

        forget_accelerator()
        args = Namespace(
            learning_rate=0.1, lr_scheduler="constant", lr_warmup_steps=0, max_train_steps=6, max_train_minutes=None,
            gradient_accumulation_steps=1, dataloader_num_workers=0, ema_decay=0.5, seed=0, checkpointing_steps=100,
            checkpoints_total_limit=None, resume_from_checkpoint=None, output_dir=run.folder,
        )  # fmt: skip
        vars(args).update(options)
        model, seen, exported = OneWeight(), [], []
        run.averages, run.draws = [], []

        def loss_of(model, batch, rng, step):
            seen.append((float(batch[0]), float(model.weight.detach())))
            run.draws.append(rng.random())
            return loss(model(batch[0])), {}

        def export(model, step):
            exported.append(step)
            run.averages.append(float(model.weight.detach()))

        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
        train(args, accelerator, model, batch_of, loss_of, export, 0.0)
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
    # The weight changes once for both parts of a step.
    assert all(seen[2 * step][1] == seen[2 * step + 1][1] for step in range(6))
    assert all(seen[2 * step + 1][1] != seen[2 * step + 2][1] for step in range(5))
    draws = run.draws
    assert len(set(draws)) == 12
    again = run(batch_of, dataloader_num_workers=2, resume_from_checkpoint=run.folder / "checkpoint-4", **options)
    assert again == (seen[8:], weight, [6]) and run.draws == draws[8:]


def test_each_process_draws_batches_of_its_own():
    from loop import Batches

    args = Namespace(gradient_accumulation_steps=2, seed=5)
    first, second = (Batches(args, lambda rng: rng.random(), process) for process in (0, 1))
    assert first[7] == np.random.default_rng((5, 3, 1, 0)).random()
    assert second[7] == np.random.default_rng((5, 3, 1, 1)).random()


def test_what_is_exported_is_the_average(run):
    """That of EMAModel, whose decay grows as (1 + n) / (10 + n) up to the one asked for; training goes on without."""
    seen, weight, _ = run(lambda rng: (torch.ones(1),), checkpointing_steps=3, ema_decay=0.25)
    weights = [w for _, w in seen[1:]] + [weight]
    average, averages = None, []
    for n, value in enumerate(weights):
        decay = min(0.25, (1 + n) / (10 + n)) if n else 0.0
        average = value if average is None else decay * average + (1 - decay) * value
        averages.append(average)
    assert run.averages == pytest.approx([averages[2], averages[5]], rel=1e-6)
    assert all(abs(run.averages[i] - weights[j]) > 1e-3 for i, j in ((0, 2), (1, 5)))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_learning_rate_follows_the_steps(num_processes):
    """Warm-up and cosine, whatever the number of processes, for each of which accelerate steps the schedule once."""
    from clock import make_lr_scheduler

    args = Namespace(max_train_minutes=None, lr_scheduler="cosine", lr_warmup_steps=2, max_train_steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule, rates = make_lr_scheduler(args, optimizer, num_processes, None), []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        for _ in range(num_processes):
            schedule.step()
    expected = [0.0, 0.25] + [0.25 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates == pytest.approx(expected) and schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_long_gradients_are_cut_to_length_one():
    from loop import accumulate_step

    model = torch.nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    direction = torch.tensor([[30.0, 0.0, 40.0]])
    accumulate_step(Accelerator(cpu=True), model, optimizer, schedule, lambda: (model(direction).sum(), {}))
    torch.testing.assert_close(before - model.weight.detach(), direction / 50)


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
