"""What the training scripts share: their options, the loop with its checkpoints, and the averaged weights."""

import importlib.util
import json
import shutil
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    set_seed,
)
from diffusers.optimization import SchedulerType, get_scheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from rsic_diffusers.bitstream import DEFAULT_MAX_SIDE
from rsic_diffusers.files import write_file


# Options that a resumed run may change. All but max_train_steps leave the weights as they would have been; that one
# stretches the learning-rate schedule, for whoever wants to train on.
FREE_OPTIONS = {
    "output_dir", "resume_from_checkpoint", "checkpointing_steps", "max_train_steps", "report_to", "validation_dir",
    "push_to_hub", "hub_model_id",
}  # fmt: skip


def add_training_arguments(parser, max_train_steps, train_batch_size, learning_rate, ema_decay, checkpointing_steps):
    """The options that every script has, with the script's own defaults."""
    parser.add_argument("--output_dir", required=True, help="Checkpoints, logs and the result go here.")
    parser.add_argument(
        "--max_side",
        type=int,
        default=DEFAULT_MAX_SIDE,
        help="Photos with a longer side are reduced to it, as the encoder does (768).",
    )
    parser.add_argument("--max_train_steps", type=int, default=max_train_steps)
    parser.add_argument("--train_batch_size", type=int, default=train_batch_size, help="For each process.")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=learning_rate)
    parser.add_argument("--lr_scheduler", default="cosine", choices=[kind.value for kind in SchedulerType])
    parser.add_argument("--lr_warmup_steps", type=int, default=100)
    parser.add_argument("--ema_decay", type=float, default=ema_decay, help="Of the averaged weights, the result.")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], help="Default: accelerate's.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpointing_steps", type=int, default=checkpointing_steps)
    parser.add_argument(
        "--resume_from_checkpoint", help="A checkpoint folder, or `latest`: goes on where the run was interrupted."
    )
    parser.add_argument(
        "--report_to",
        default="tensorboard" if importlib.util.find_spec("tensorboard") else None,
        help="A tracker that accelerate knows: tensorboard (default if installed), wandb, ...",
    )


def make_accelerator(args, find_unused_parameters=False) -> Accelerator:
    """Accelerator, seeds and output folder; refuses to resume a run with other settings."""
    output_dir = Path(args.output_dir)
    for name in (
        "max_train_steps",
        "train_batch_size",
        "gradient_accumulation_steps",
        "checkpointing_steps",
        "max_side",
    ):
        if getattr(args, name) < 1:
            raise SystemExit(f"--{name} must be at least 1, got {getattr(args, name)}.")
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        kwargs_handlers=[
            # Buffers are the same in every process, and some are 16-bit integers, which NCCL does not send. Of the
            # single-layer ablation some blocks are without a use.
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused_parameters),
            # The others wait while one process encodes all photos.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
        project_config=ProjectConfiguration(project_dir=output_dir, logging_dir=output_dir / "logs"),
    )
    set_seed(args.seed, device_specific=True)
    settings = {name: value for name, value in sorted(vars(args).items()) if name not in FREE_OPTIONS}
    settings = json.loads(json.dumps({**settings, "num_processes": accelerator.num_processes}))
    path = output_dir / "settings.json"
    if not args.resume_from_checkpoint and any(output_dir.glob("checkpoint-*")):
        raise SystemExit(
            f"{output_dir} holds the checkpoints of another run; go on with it by --resume_from_checkpoint latest, or "
            "give another --output_dir."
        )
    if args.resume_from_checkpoint and path.exists():
        before = json.loads(path.read_text())
        changed = [name for name in sorted(settings | before) if settings.get(name) != before.get(name)]
        if changed:
            was = ", ".join(f"{name} was {before.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            raise SystemExit(f"The run in {output_dir} had other settings ({was}); repeat them, or start a new run.")
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_file(path, (json.dumps(settings, indent=2) + "\n").encode())
    accelerator.wait_for_everyone()
    return accelerator


def train(args, accelerator, model, loss_of, export, weight_decay=1e-4):
    """Minimise `loss_of` over `model`'s parameters.

    Args:
        model (`torch.nn.Module`): On any device; its `forward` is what distributed training wraps.
        loss_of (`Callable`): `loss_of(model, rng, step)` gives the loss of one batch and a dict of figures to show.
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
    ema = EMAModel(parameters, decay=args.ema_decay)
    model, optimizer, lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
    first = resume(accelerator, ema, Path(args.output_dir), args.resume_from_checkpoint)
    if args.report_to:
        accelerator.init_trackers("training")

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
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss, figures = loss_of(model, rng, step)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
        ema.step(parameters)
        if step % 20 == 0:
            shown = {name: float(value) for name, value in {"loss": loss, **figures}.items()}
            progress.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=False)
            accelerator.log(shown, step=step)

        done = step + 1
        if done % args.checkpointing_steps == 0 or done == args.max_train_steps:
            save_checkpoint(accelerator, Path(args.output_dir) / f"checkpoint-{done}")
            if accelerator.is_main_process:
                with averaged_weights(ema, parameters):
                    export(accelerator.unwrap_model(model), done)
                model.train()
            accelerator.wait_for_everyone()
    if first >= args.max_train_steps and accelerator.is_main_process:
        # Killed between the last checkpoint and the end of its export.
        with averaged_weights(ema, parameters):
            export(accelerator.unwrap_model(model), first)
    accelerator.end_training()


def save_checkpoint(accelerator, path: Path) -> None:
    """Whole or not at all: a kill leaves no half checkpoint for `latest` to find."""
    part = path.with_name(f"part-of-{path.name}")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(part)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)


def resume(accelerator, ema, output_dir: Path, checkpoint: str | None) -> int:
    """Have `ema` saved with the rest, and load `checkpoint` ("latest": the last one in `output_dir`).

    Returns:
        `int`: The number of steps that it has behind it, 0 without one.
    """
    if checkpoint == "latest":
        checkpoint = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), default=None)
        if checkpoint is None:
            accelerator.print(f"No checkpoint in {output_dir}; starting anew.")
    accelerator.register_for_checkpointing(ema)
    ema.to(accelerator.device)
    if checkpoint is None:
        return 0
    if not Path(checkpoint).is_dir():
        raise SystemExit(f"There is no checkpoint {checkpoint}; give one of the folders in {output_dir}, or `latest`.")
    accelerator.load_state(checkpoint)
    ema.to(accelerator.device)  # accelerate loads it on the CPU
    return int(Path(checkpoint).name.split("-")[1])


@contextmanager
def averaged_weights(ema, parameters):
    """Within, the parameters hold their averages; afterwards their own values again."""
    ema.store(parameters)
    ema.copy_to(parameters)
    yield
    ema.restore(parameters)
