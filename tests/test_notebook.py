"""docs/quickstart.ipynb runs from top to bottom."""

from pathlib import Path

import pytest
from PIL import Image

from rsic_diffusers.bitstream import Bitstream


NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def test_quickstart(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the notebook is run by nbclient, which is not installed")
    nbclient = pytest.importorskip("nbclient", reason="the notebook is run by nbclient, which is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.cell_type != "code" or not cell.outputs for cell in notebook.cells)  # none are kept in git
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()

    file = Bitstream.read(tmp_path / "photo.rsic")
    picture = Image.open(tmp_path / "photo.png")
    assert picture.size == (file.width, file.height)
    text = "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    assert f"{len(file.to_bytes())} bytes" in text and file.caption in text
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in output.data for output in pictures) == 3  # photo, decoded, overlay
