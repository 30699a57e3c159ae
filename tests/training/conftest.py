import sys
from pathlib import Path

import pytest


TRAINING = Path(__file__).parents[2] / "training"


@pytest.fixture(autouse=True)
def training_on_path(monkeypatch):
    """The training scripts import each other as scripts do: by name, from their own folder."""
    monkeypatch.setattr(sys, "path", [str(TRAINING), *sys.path])
