import pytest

from rsic_diffusers.commands.rsic_cli import main


@pytest.fixture
def photo_file(small_photo, tmp_path):
    path = tmp_path / "photo.png"
    small_photo.save(path)
    return path


@pytest.fixture
def rsic():
    def run(*arguments):
        return main([str(argument) for argument in arguments])

    return run
