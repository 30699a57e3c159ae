"""Checkpoints of a training run: written whole or not at all, resumed, and the oldest deleted."""

import shutil
from contextlib import contextmanager
from pathlib import Path


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The folders `checkpoint-<steps>`, oldest first."""
    return sorted(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def save_checkpoint(accelerator, path: Path, total_limit: int | None = None) -> None:
    """Save accelerate's state. A kill leaves no half checkpoint for `latest` to find.

    Args:
        total_limit (`int`, *optional*): Afterwards the oldest checkpoints beyond this number are deleted.
    """
    part = path.with_name(f"part-of-{path.name}")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(part)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        if total_limit:
            for old in list_checkpoints(path.parent)[:-total_limit]:
                shutil.rmtree(old)


def resume_from(accelerator, ema, clock, output_dir: Path, checkpoint: str | None) -> int:
    """Have `ema` and `clock` saved with the rest, and load `checkpoint` ("latest": the last one in `output_dir`).

    Returns:
        `int`: The number of steps that it has behind it, 0 without one.
    """
    if checkpoint == "latest":
        checkpoint = next(reversed(list_checkpoints(output_dir)), None)
        if checkpoint is None:
            accelerator.print(f"No checkpoint in {output_dir}; starting anew.")
    accelerator.register_for_checkpointing(ema, clock)
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
