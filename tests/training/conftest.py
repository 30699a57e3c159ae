import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest


TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture(autouse=True)
def training_on_path(monkeypatch):
    """The training scripts import each other as scripts do: by name, from their own folder."""
    monkeypatch.setattr(sys, "path", [str(TRAINING), *sys.path])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.fixture(autouse=True)
def forget_accelerator():
    """A function that clears what accelerate keeps for the whole process, so that each run starts afresh."""

    def forget():
        from accelerate.state import AcceleratorState, GradientState, PartialState

        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()

    forget()
    return forget


@pytest.fixture
def run_script(monkeypatch, capsys, forget_accelerator):
    """Run a training script in this process and return what it printed; with `refused`, its last words."""

    def run(script, *arguments, refused=False):
        forget_accelerator()
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        capsys.readouterr()
        try:
            importlib.import_module(script.removesuffix(".py")).main()
        except (SystemExit, ValueError) as error:
            assert refused, str(error)
            return str(error) + capsys.readouterr().err
        assert not refused
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def launch(script, *arguments, expect=0, launcher=()):
    """Run a script in a process of its own, by itself or by a launcher."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, str(TRAINING / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert (result.returncode == 0) == (expect == 0), result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="session")
def launch_script():
    return launch


@pytest.fixture(scope="session")
def photos(tmp_path_factory, photo):
    """Five photos of one size, of which one is in a subfolder, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    names = ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "more/0.jpg"]
    for i, name in enumerate(names):
        photo.crop((25 * i, 20 * i, 25 * i + 400, 20 * i + 400)).save(folder / name)
    (folder / "broken.jpg").write_text("no picture")
    (folder / "labels.tsv").write_text("file\tlabel\n" + "".join(f"{name}\twoman\n" for name in names))
    return folder
