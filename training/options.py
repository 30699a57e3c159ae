"""The options that every training script has, and the checks that come before any work."""

import importlib.util
import json
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration, set_seed
from checkpoints import find_checkpoint, list_checkpoints
from diffusers.optimization import SchedulerType

from rsic_diffusers.bitstream import DEFAULT_MAX_SIDE
from rsic_diffusers.files import write_file


# Options that a resumed run may change. Only max_train_steps and max_train_minutes have a say in the weights: they
# stretch the learning-rate schedule, for whoever wants to train on.
FREE_OPTIONS = {
    "output_dir", "resume_from_checkpoint", "checkpointing_steps", "checkpoints_total_limit", "max_train_steps",
    "max_train_minutes", "report_to", "validation_dir", "measured_photos", "cache_latents", "dataloader_num_workers",
    "push_to_hub", "hub_model_id",
}  # fmt: skip
# Without piecewise_constant, whose rule no option gives.
LR_SCHEDULERS = [kind.value for kind in SchedulerType if kind is not SchedulerType.PIECEWISE_CONSTANT]
POSITIVE_OPTIONS = (
    "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "checkpointing_steps", "max_side",
    "checkpoints_total_limit",
)  # fmt: skip


def has_gpu() -> bool:
    """Whether training is on a GPU of CUDA. Other devices are not used: some lack float64, which the codec needs."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return torch.cuda.is_available() and not on_cpu


def default_precision() -> str | None:
    """None leaves it to accelerate, which `accelerate launch --mixed_precision` and `accelerate config` tell."""
    if not has_gpu() or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        return None
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def add_training_arguments(parser, cpu: dict, gpu: dict | None = None) -> None:
    """Add the shared options to `parser`.

    Args:
        cpu (`dict`): Defaults of the script for max_train_steps, train_batch_size, learning_rate, ema_decay and
            checkpointing_steps: a run that a laptop ends.
        gpu (`dict`, *optional*): Those that are others where a GPU is there.
    """
    gpu = {**cpu, **(gpu or {})}

    def add(option, type, help=""):
        name = option.removeprefix("--")
        text = f"{cpu[name]}" if cpu[name] == gpu[name] else f"{gpu[name]} with a GPU, {cpu[name]} without"
        default = (gpu if has_gpu() else cpu)[name]
        parser.add_argument(option, type=type, default=default, help=f"{help} Default: {text}.".strip())

    parser.add_argument("--output_dir", required=True, help="Checkpoints, logs and the result go here.")
    parser.add_argument(
        "--max_side",
        type=int,
        default=DEFAULT_MAX_SIDE,
        help=f"Photos with a longer side are reduced to it. Default: {DEFAULT_MAX_SIDE}.",
    )
    add("--max_train_steps", int)
    parser.add_argument(
        "--max_train_minutes",
        type=float,
        help="End after so many minutes, not after a number of steps: for a machine that is yours for a while. They "
        "count from the start of the script, reading and encoding included; the last checkpoint and what is measured "
        "of the result come after them. The learning rate follows the clock. In one process only.",
    )
    add("--train_batch_size", int, "For each process.")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", float)
    parser.add_argument("--lr_scheduler", default="cosine", choices=LR_SCHEDULERS)
    parser.add_argument("--lr_warmup_steps", type=int, default=100)
    add("--ema_decay", float, "Of the averaged weights, which are the result.")
    parser.add_argument(
        "--mixed_precision",
        choices=["no", "fp16", "bf16"],
        default=default_precision(),
        help="Default: what accelerate was told; if nothing, bf16 (or fp16) with a GPU and none without. float32 on a "
        "GPU is `no` here: accelerate's own `no` cannot be told from nothing.",
    )
    parser.add_argument(
        "--dataloader_num_workers",
        type=int,
        default=min(8, os.cpu_count() or 1) if has_gpu() else 0,
        help="Processes that read photos and draw batches, for each process that trains. Default: up to 8 with a GPU, "
        "0 without.",
    )
    parser.add_argument("--seed", type=int, default=0)
    add("--checkpointing_steps", int, "A checkpoint, and the result so far, each so many steps.")
    parser.add_argument("--checkpoints_total_limit", type=int, help="Keep only the newest so many checkpoints.")
    parser.add_argument(
        "--resume_from_checkpoint", help="A checkpoint folder, or `latest`: goes on where the run was interrupted."
    )
    parser.add_argument(
        "--report_to",
        default="tensorboard" if importlib.util.find_spec("tensorboard") else "none",
        help="A tracker that accelerate knows: tensorboard (default if installed), wandb, ..., or none.",
    )


def make_accelerator(args, find_unused_parameters=False) -> Accelerator:
    """Accelerator, seeds and output folder.

    Raises:
        SystemExit: A number is below 1, the tracker is not installed, the output folder holds another run, or the run
            to resume had other settings.
    """
    for name in POSITIVE_OPTIONS:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise SystemExit(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.max_train_minutes is not None and args.max_train_minutes <= 0:
        raise SystemExit(f"--max_train_minutes must be above 0, got {args.max_train_minutes}.")
    output_dir = Path(args.output_dir)
    accelerator = Accelerator(
        cpu=not has_gpu(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=check_tracker(args.report_to),
        kwargs_handlers=[
            # Buffers are the same in every process, and some are 16-bit integers, which NCCL does not send. Blocks
            # that nothing uses get no gradient: some of the single-layer ablation, and those of a scale left out.
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=find_unused_parameters),
            # The others wait while the last process encodes its photos.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
        project_config=ProjectConfiguration(project_dir=output_dir, logging_dir=output_dir / "logs"),
    )
    if args.max_train_minutes and accelerator.num_processes > 1:
        raise SystemExit("--max_train_minutes trains in one process only; give --max_train_steps.")
    set_seed(args.seed, device_specific=True)
    settings = run_settings(args, accelerator)
    check_resumable(args, settings)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_file(output_dir / "settings.json", (json.dumps(settings, indent=2) + "\n").encode())
    accelerator.wait_for_everyone()
    return accelerator


def check_tracker(name: str) -> str | None:
    """The tracker for accelerate, which itself would go on without one that is not installed."""
    if name == "none":
        return None
    available = [str(tracker.value) for tracker in get_available_trackers()]
    if name not in available:
        raise SystemExit(
            f"--report_to {name}: this tracker is not installed (or unknown to accelerate); install it, or give one "
            f"of {', '.join([*available, 'none'])}."
        )
    return name


def run_settings(args, accelerator) -> dict:
    """What decides the weights: the options, and what accelerate made of its own configuration."""
    settings = {name: value for name, value in sorted(vars(args).items()) if name not in FREE_OPTIONS}
    settings |= {"num_processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
    return json.loads(json.dumps(settings, default=str))


def check_resumable(args, settings: dict) -> None:
    """SystemExit if the output folder holds another run, or the run to resume had other settings."""
    output_dir = Path(args.output_dir)
    if not args.resume_from_checkpoint and list_checkpoints(output_dir):
        raise SystemExit(
            f"{output_dir} holds the checkpoints of another run; go on with it by --resume_from_checkpoint latest, or "
            "give another --output_dir."
        )
    checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)
    path = checkpoint and checkpoint.parent / "settings.json"
    if path and path.exists():
        before = json.loads(path.read_text())
        changed = [name for name in sorted(settings.keys() & before.keys()) if settings[name] != before[name]]
        if changed:
            was = ", ".join(f"{name} was {before[name]!r}, is {settings[name]!r}" for name in changed)
            raise SystemExit(f"The run in {path.parent} had other settings ({was}); repeat them, or start a new run.")
