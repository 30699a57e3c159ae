"""What the training scripts share: going on after an interruption, and the averaged weights."""

from contextlib import contextmanager
from pathlib import Path


def add_checkpoint_arguments(parser, checkpointing_steps):
    """The options that every script has."""
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--checkpointing_steps", type=int, default=checkpointing_steps)
    parser.add_argument("--resume_from_checkpoint", help="A checkpoint folder, or `latest`.")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--seed", type=int, default=0)


def resume(accelerator, ema, output_dir: Path, checkpoint: str | None) -> int:
    """Have `ema` saved with the rest, and load `checkpoint` ("latest": the last one in `output_dir`).

    Returns:
        `int`: The number of steps that it has behind it, 0 without one.
    """
    if checkpoint == "latest":
        checkpoint = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), default=None)
        if checkpoint is None:
            print(f"No checkpoint in {output_dir}; starting anew.")
    accelerator.register_for_checkpointing(ema)
    ema.to(accelerator.device)
    if checkpoint is None:
        return 0
    if not Path(checkpoint).is_dir():
        raise ValueError(f"There is no checkpoint {checkpoint}; give one of the folders in {output_dir}, or `latest`.")
    accelerator.load_state(checkpoint)
    ema.to(accelerator.device)  # accelerate loads it on the CPU
    return int(Path(checkpoint).name.split("-")[1])


@contextmanager
def averaged_weights(ema, model):
    """Within, `model` holds the averaged weights; afterwards its own again."""
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    yield
    ema.restore(model.parameters())
