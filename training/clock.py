"""How far a training is, by its steps or by the clock, and the learning rate that follows."""

import time

import torch
from diffusers.optimization import get_scheduler


CLOCK_STEPS = 1000  # of a schedule that follows the clock
STARTED = time.monotonic()


class TrainingClock:
    """Tells how much of a training is done: of its steps, or of its minutes with `--max_train_minutes`.

    The minutes count from the start of the script. Checkpoints hold those that were used, and a resumed run goes on
    with the rest.
    """

    def __init__(self, args):
        self.args = args
        self.used = 0.0  # seconds of earlier starts
        self.begun = None  # seconds that were over before the first step

    @property
    def seconds(self) -> float:
        return self.used + time.monotonic() - STARTED

    def part_done(self, step: int) -> float:
        """After `step` steps; 1 is all."""
        minutes = self.args.max_train_minutes
        return self.seconds / 60 / minutes if minutes else step / self.args.max_train_steps

    def begin(self) -> None:
        if self.begun is None:
            self.begun = self.seconds

    def part_of_training(self) -> float:
        """Of the minutes, without those before the first step: from 0 to 1."""
        begun = self.begun or 0.0
        length = 60 * self.args.max_train_minutes - begun
        return min(1.0, max(0.0, (self.seconds - begun) / length)) if length > 0 else 1.0

    def state_dict(self) -> dict:
        return {"seconds": self.seconds, "begun": self.begun}

    def load_state_dict(self, state: dict) -> None:
        self.used, self.begun = state["seconds"], state["begun"]


def make_lr_scheduler(args, optimizer, num_processes, clock):
    """The schedule of the learning rate over the steps, or along the clock after `lr_warmup_steps` steps."""
    if not args.max_train_minutes:
        # accelerate steps the schedule once for each process.
        return get_scheduler(
            args.lr_scheduler,
            optimizer,
            num_warmup_steps=args.lr_warmup_steps * num_processes,
            num_training_steps=args.max_train_steps * num_processes,
        )
    nominal = get_scheduler(
        args.lr_scheduler, torch.optim.SGD([torch.zeros(1)]), num_warmup_steps=0, num_training_steps=CLOCK_STEPS
    )
    (factor_at,) = nominal.lr_lambdas

    def factor(step):
        warmup = min(1.0, step / args.lr_warmup_steps) if args.lr_warmup_steps else 1.0
        return warmup * factor_at(clock.part_of_training() * CLOCK_STEPS)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
