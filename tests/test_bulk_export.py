import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clients.bulk.job import BulkError, Settings
from clients.bulk.models import LoadedVersion
from clients.bulk.versions import version_folder
from tests import bulk_inputs
from tests.artefacts import Served
from vit22b.client import Client

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photos(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "photos"
    folder.mkdir()
    for number, image in enumerate(sorted((digits / "heldout").rglob("*.png"))[:21]):
        shutil.copy(image, folder / f"{number:03}.png")
    (folder / "005.png").write_bytes((folder / "005.png").read_bytes()[:60])
    return folder


def embed(photos: Path, output: Path, *flags: str) -> dict:
    """Runs the program as users do; its summary."""
    command = [sys.executable, ROOT / "clients" / "bulk_embed.py", f"--input={photos}", f"--output={output}"]
    done = subprocess.run([*command, "--shard_rows=9", "--json", *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return json.loads(done.stdout)


def test_a_loaded_model_embeds_as_a_served_one(served: Served, repository: Path, photos: Path, tmp_path: Path):
    loaded = embed(photos, tmp_path / "loaded", f"--model_dir={repository / 'digits'}", "--dimensions=12")
    asked = embed(photos, tmp_path / "asked", f"--address={served.address}", "--model=digits", "--dimensions=12")
    assert (loaded["images"], loaded["failures"], loaded["shards"]) == (21, 1, 3)
    assert (loaded["space_id"], loaded["version"]) == (asked["space_id"], asked["version"])
    # A job does not say who ran the model, so what one has begun the other may end.
    assert (tmp_path / "loaded" / "job.json").read_bytes() == (tmp_path / "asked" / "job.json").read_bytes()
    names, vectors = bulk_inputs.vectors(tmp_path / "loaded")
    with Client(served.address, served.model) as client:
        expected = client.embed_images(sorted(photos.iterdir()), on_error="skip", dimensions=12)
    assert names == [Path(name).name for name in expected.names]
    np.testing.assert_allclose(vectors, expected.vectors, atol=1e-5)
    assert bulk_inputs.failures(tmp_path / "loaded") == bulk_inputs.failures(tmp_path / "asked")


def test_an_export_of_another_space_is_refused(repository: Path):
    folder, version = version_folder(str(repository / "digits"), None)
    settings = Settings("digits", version, "space-one", 8, "float32", "parquet", 9, "images", "uri", "name")
    with pytest.raises(BulkError, match="the job is of space-one; what is done stays"):
        LoadedVersion(folder, settings)


def test_the_versions_of_an_exported_model_are_found(repository: Path, tmp_path: Path):
    model = tmp_path / "digits"
    for version in ("2", "10"):
        target = model / version / "assets.extra"
        target.mkdir(parents=True)
        shutil.copy(repository / "digits" / "1" / "assets.extra" / "vit22b.json", target)
    assert version_folder(str(model), None) == (str(model / "10"), 10)
    assert version_folder(str(model), 2) == (str(model / "2"), 2)
    assert version_folder(str(model / "2"), None) == (str(model / "2"), 2)
    with pytest.raises(ValueError, match="holds the versions 2, 10 of an exported model; expected 3"):
        version_folder(str(model), 3)
    with pytest.raises(ValueError, match="is version 2; expected 3"):
        version_folder(str(model / "2"), 3)
    with pytest.raises(ValueError, match="holds no version of an exported model"):
        version_folder(str(tmp_path), None)
