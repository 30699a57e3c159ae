"""How long the command `rsic` takes from the shell to the result: CPU seconds and seconds of waiting, by subcommand.

    python -m rsic_diffusers.evaluation.experiments.startup --repeats 5

Each command runs in a process of its own, several times in turn; the table holds the smallest of each figure, since
other work on the machine only adds to it. "foreign lines" counts what other packages print on standard error.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ...example_photo import example_path
from ...images import open_image


RSIC = (sys.executable, "-m", "rsic_diffusers.commands.rsic_cli")
# What `rsic` itself says on standard error while it works.
OWN_LINES = ("Loading ", "rsic ", "UNet evaluations planned")


def run_command(command: list[str]) -> tuple[float, float, int]:
    """CPU seconds and seconds of waiting of a command, and the lines of other packages on its standard error.

    Raises:
        RuntimeError: The command failed.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        errors.seek(0)
        lines = errors.read().decode(errors="replace").splitlines()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {lines[-1] if lines else 'no message'}")
    # A progress bar writes over its line with carriage returns; that of decoding is the command's own.
    foreign = [line for line in lines if line.strip() and not line.startswith(OWN_LINES) and "\r" not in line]
    return usage.ru_utime + usage.ru_stime, seconds, len([line for line in foreign if "it/s" not in line])


def measure_startup(photo: Path, folder: Path, repeats: int) -> dict[str, tuple[float, float, int]]:
    """Smallest CPU seconds, smallest seconds of waiting and most foreign lines by command, for one photo."""
    file, picture = str(folder / "photo.rsic"), str(folder / "photo.png")
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import diffusers' pipelines": [sys.executable, "-Wignore", "-c", "from diffusers import DiffusionPipeline"],
        "rsic --help": [*RSIC, "--help"],
        "rsic encode": [*RSIC, "encode", str(photo), "-o", file],
        "rsic encode --caption": [*RSIC, "encode", str(photo), "-o", file, "--caption", "a photo"],
        "rsic inspect": [*RSIC, "inspect", file],
        "rsic decode --steps 0": [*RSIC, "decode", file, "-o", picture, "--steps", "0"],
    }
    figures = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            figures[name].append(run_command(command))
    return {
        name: (min(run[0] for run in runs), min(run[1] for run in runs), max(run[2] for run in runs))
        for name, runs in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photo", nargs="?", help="default: one that matplotlib ships, 512 x 600")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command (3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(args.photo) if args.photo else Path(folder) / "photo.png"
        if not args.photo:
            open_image(example_path()).save(photo)
        figures = measure_startup(photo, Path(folder), args.repeats)
    print("| command | CPU s | waiting s | foreign lines |\n|---|---|---|---|")
    for name, (cpu, seconds, lines) in figures.items():
        print(f"| {name} | {cpu:.2f} | {seconds:.2f} | {lines} |")


if __name__ == "__main__":
    main()
