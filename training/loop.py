"""The training loop that the scripts share."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from checkpoints import averaged_weights, resume_from, save_checkpoint
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm


LOGGING_STEPS = 20
MAX_GRADIENT_NORM = 1.0


def train(args, accelerator, model, loss_of, export, weight_decay=1e-4):
    """Minimise `loss_of` over `model`'s parameters.

    Args:
        model (`torch.nn.Module`): On any device; its `forward` is what distributed training wraps.
        loss_of (`Callable`): `loss_of(model, rng, step)` gives the loss of one batch and a dict of figures to log.
            `rng` (`np.random.Generator`) is seeded by step and process, so that a resumed run sees the batches that
            the uninterrupted one would have.
        export (`Callable`): `export(model, step)` is called on the main process at each checkpoint, with the model
            unwrapped and its weights averaged.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=weight_decay)
    # accelerate steps the schedule once for each process.
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps * accelerator.num_processes,
        num_training_steps=args.max_train_steps * accelerator.num_processes,
    )
    ema = EMAModel(parameters, decay=args.ema_decay, foreach=True)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
    first = resume_from(accelerator, ema, Path(args.output_dir), args.resume_from_checkpoint)
    accelerator.init_trackers("training", config={name: str(value) for name, value in vars(args).items()})

    def export_averaged(step):
        if accelerator.is_main_process:
            with averaged_weights(ema, parameters):
                export(accelerator.unwrap_model(model), step)
            model.train()
        accelerator.wait_for_everyone()

    model.train()
    progress = tqdm(
        range(first, args.max_train_steps),
        initial=first,
        total=args.max_train_steps,
        mininterval=5,
        disable=not accelerator.is_main_process,
    )
    for step in progress:
        for part in range(args.gradient_accumulation_steps):
            rng = np.random.default_rng((args.seed, step, part, accelerator.process_index))
            loss, figures = accumulate_step(
                accelerator, model, optimizer, lr_scheduler, partial(loss_of, model, rng, step)
            )
        ema.step(parameters)
        if step % LOGGING_STEPS == 0:
            log_figures(
                accelerator, progress, {"loss": loss.detach(), **figures, "lr": lr_scheduler.get_last_lr()[0]}, step
            )

        done = step + 1
        if done % args.checkpointing_steps == 0 or done == args.max_train_steps:
            path = Path(args.output_dir) / f"checkpoint-{done}"
            save_checkpoint(accelerator, path, args.checkpoints_total_limit)
            export_averaged(done)
    if first >= args.max_train_steps:
        export_averaged(first)  # the run was killed between the last checkpoint and the end of its export
    accelerator.end_training()


def accumulate_step(accelerator, model, optimizer, lr_scheduler, make_loss):
    """One batch forth and back, and a step of the optimiser when enough of them are accumulated."""
    with accelerator.accumulate(model):
        with accelerator.autocast():
            loss, figures = make_loss()
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
    return loss, figures


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
