import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for originals.py and ways.py

from originals import shared_folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("the original's outputs are not here: set BARK_SHARED to their folder")
    return folder / "goldens"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded checkpoint with Bark's true vocabularies and windows, two layers deep."""
    from pipeline.models.seeded import build_seeded

    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    build_seeded(path, size="tiny", seed=3)
    return path
