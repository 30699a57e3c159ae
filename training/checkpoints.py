"""Checkpoints of a training run: written whole or not at all, resumed, and the oldest deleted."""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The folders `checkpoint-<steps>`, oldest first."""
    folders = [path for path in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(folders, key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """The steps that a checkpoint has behind it, which its name tells."""
    return int(checkpoint.name.split("-")[1])


def find_checkpoint(output_dir: Path, wanted: str | None) -> Path | None:
    """The checkpoint to resume: a folder, or the last one in `output_dir` for "latest" (None where there is none yet).

    Raises:
        SystemExit: There is no such folder, or its name tells no steps.
    """
    if wanted is None:
        return None
    if wanted == "latest":
        return next(reversed(list_checkpoints(output_dir)), None)
    checkpoint = Path(wanted)
    if not checkpoint.is_dir() or checkpoint.resolve() not in list_checkpoints(checkpoint.resolve().parent):
        raise SystemExit(
            f"There is no checkpoint {wanted}; give a folder checkpoint-STEPS, as there are in {output_dir}, or "
            "`latest`."
        )
    return checkpoint.resolve()


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


def resume_from(accelerator, ema, clock, output_dir: Path, wanted: str | None) -> int:
    """Have `ema` and `clock` saved with the rest, and load a checkpoint, see [`find_checkpoint`].

    Returns:
        `int`: The number of steps that it has behind it, 0 without one.
    """
    found = find_checkpoint(output_dir, wanted)
    if wanted and not found:
        accelerator.print(f"No checkpoint in {output_dir}; starting anew.")
    accelerator.register_for_checkpointing(ema, clock)
    ema.to(accelerator.device)
    if found is None:
        return 0
    accelerator.load_state(found)
    ema.to(accelerator.device)  # accelerate loads it on the CPU
    return steps_of(found)


@contextmanager
def averaged_weights(ema, parameters):
    """Within, the parameters hold their averages; afterwards their own values again."""
    ema.store(parameters)
    ema.copy_to(parameters)
    yield
    ema.restore(parameters)
