"""The training loop that the scripts share."""

import multiprocessing
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from checkpoints import averaged_weights, resume_from, save_checkpoint
from clock import TrainingClock, make_lr_scheduler
from diffusers.training_utils import EMAModel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm


LOGGING_STEPS = 20
MAX_GRADIENT_NORM = 1.0
MAX_SKIPPED_STEPS = 20


def train(args, accelerator, model, batch_of, loss_of, export, weight_decay=1e-4):
    """Minimise `loss_of` over `model`'s parameters.

    Args:
        model (`torch.nn.Module`): On any device; its `forward` is what distributed training wraps.
        batch_of (`Callable`): `batch_of(rng)` draws a batch, a tuple of tensors on the CPU, with `rng`
            (`np.random.Generator`). It runs in the DataLoader's workers, where there are some.
        loss_of (`Callable`): `loss_of(model, batch, rng, step)` gives the loss of a batch, which is on the device by
            then, and a dict of figures to log. Both `rng` are seeded by step and process, so that a resumed run sees
            what the uninterrupted one would have.
        export (`Callable`): `export(model, step)` is called on the main process at each checkpoint, with the model
            unwrapped and its weights averaged.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=weight_decay, fused=True)
    clock = TrainingClock(args)
    lr_scheduler = make_lr_scheduler(args, optimizer, accelerator.num_processes, clock)
    ema = EMAModel(parameters, decay=args.ema_decay, foreach=True)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
    first = resume_from(accelerator, ema, clock, Path(args.output_dir), args.resume_from_checkpoint)
    accelerator.init_trackers("training", config={name: str(value) for name, value in vars(args).items()})

    def export_averaged(step):
        if accelerator.is_main_process:
            with averaged_weights(ema, parameters):
                export(accelerator.unwrap_model(model), step)
            model.train()
        accelerator.wait_for_everyone()

    model.train()
    batches = iter(load_batches(args, accelerator, batch_of, first))
    progress = tqdm(
        initial=first,
        total=None if args.max_train_minutes else args.max_train_steps,
        mininterval=5,
        disable=not accelerator.is_main_process,
    )
    step, skipped, finished = first, 0, clock.part_done(first) >= 1
    if finished and not first:
        raise SystemExit(
            f"The {args.max_train_minutes:g} minutes were over before the first step. Give more; what was encoded is "
            "kept, and is not encoded again."
        )
    if finished:
        export_averaged(first)  # the run was killed between the last checkpoint and the end of its export
    clock.begin()
    while not finished:
        lr = lr_scheduler.get_last_lr()[0]
        for part in range(args.gradient_accumulation_steps):
            batch = tuple(tensor.to(accelerator.device, non_blocking=True) for tensor in next(batches))
            rng = np.random.default_rng((args.seed, step, part, accelerator.process_index, 1))
            loss, figures, is_finite = accumulate_step(
                accelerator, model, optimizer, lr_scheduler, partial(loss_of, model, batch, rng, step)
            )
        skipped = 0 if is_finite else skipped + 1  # of the last part, in which the gradients are complete
        if skipped >= MAX_SKIPPED_STEPS:
            raise SystemExit(
                f"The gradient was NaN or infinite in {skipped} steps running, up to step {step}. Start anew, in "
                "another --output_dir, with a lower --learning_rate or with --mixed_precision no."
            )
        ema.step(parameters)
        progress.update()
        if step % LOGGING_STEPS == 0:
            log_figures(accelerator, progress, {"loss": loss.detach(), **figures, "lr": lr}, step)
        step += 1
        finished = clock.part_done(step) >= 1
        if step % args.checkpointing_steps == 0 or finished:
            path = Path(args.output_dir) / f"checkpoint-{step}"
            save_checkpoint(accelerator, path, args.checkpoints_total_limit)
            export_averaged(step)
    progress.close()
    accelerator.end_training()


class Batches(Dataset):
    """The batch that `batch_of` draws at index step x gradient_accumulation_steps + part."""

    def __init__(self, args, batch_of, process_index):
        self.args, self.batch_of, self.process_index = args, batch_of, process_index

    def __getitem__(self, i):
        step, part = divmod(i, self.args.gradient_accumulation_steps)
        return self.batch_of(np.random.default_rng((self.args.seed, step, part, self.process_index)))


def load_batches(args, accelerator, batch_of, first: int) -> DataLoader:
    """The batches from step `first` on, without an end."""
    can_fork = "fork" in multiprocessing.get_all_start_methods()  # workers share the photos in memory
    num_workers = args.dataloader_num_workers if can_fork else 0
    return DataLoader(
        Batches(args, batch_of, accelerator.process_index),
        batch_size=None,
        sampler=count(first * args.gradient_accumulation_steps),
        num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator(),  # otherwise it draws from torch's own, and a resumed run would differ
    )


def accumulate_step(accelerator, model, optimizer, lr_scheduler, make_loss):
    """One batch forth and back, and a step of the optimiser when enough of them are accumulated.

    Returns:
        Loss, figures to log, and whether the gradient was finite. If not, the weights stay as they are: one such step
        would make all of them NaN.
    """
    is_finite = True
    with accelerator.accumulate(model):
        with accelerator.autocast():
            loss, figures = make_loss()
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            norm = accelerator.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            is_finite = bool(torch.isfinite(norm))
            if not is_finite:
                optimizer.zero_grad()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    return loss, figures, is_finite


def log_figures(accelerator, progress, figures, step) -> None:
    """To the tracker; those without a slash in their name also to the progress bar."""
    figures = {name: float(value) for name, value in figures.items()}
    shown = {name: f"{value:.4g}" for name, value in figures.items() if "/" not in name}
    progress.set_postfix(shown, refresh=False)
    accelerator.log(figures, step=step)


def log_picture(accelerator, name, picture, step) -> None:
    """Give a PIL picture to the trackers that take pictures."""
    pixels = np.asarray(picture)[None]
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels}, step=step, dataformats="NHWC")
        elif hasattr(tracker, "log_images"):
            tracker.log_images({name: pixels}, step=step)
