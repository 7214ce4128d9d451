from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.sheet import Tile, choose, draw

RED = (208, 2, 27)


@pytest.mark.parametrize(
    ("wrong", "right", "shown_wrong", "shown"),
    [(0, 300, 0, 100), (7, 300, 7, 100), (90, 300, 50, 100), (90, 20, 80, 100), (3, 4, 3, 7)],
)
def test_a_sheet_holds_the_wrong_ones(wrong: int, right: int, shown_wrong: int, shown: int):
    tiles = [Tile(Path(str(place)), "x", "y", right=place >= wrong) for place in range(wrong + right)]
    chosen = choose(tiles, 100)
    assert len(chosen) == shown
    assert sum(tile.right is False for tile in chosen) == shown_wrong
    assert chosen == sorted(chosen, key=lambda tile: int(tile.path.name))


def test_a_file_that_pillow_cannot_read_has_an_empty_tile(tmp_path: Path):
    (tmp_path / "odd.png").write_bytes(b"only the model can read this")
    Image.new("RGB", (8, 8), "black").save(tmp_path / "black.png")
    sheet = np.asarray(draw([Tile(tmp_path / name, "") for name in ("odd.png", "black.png")], ""))
    black = (sheet == 0).all(axis=-1)
    assert black.sum() == 96 * 96
    assert not black[:, : sheet.shape[1] // 2].any()


def test_a_sheet_draws_every_kind_of_image(tmp_path: Path):
    sizes = {"wide.jpg": (300, 20), "tall.png": (1, 200), "tiny.gif": (2, 2), "clear.webp": (64, 64)}
    for name, size in sizes.items():
        mode = "RGBA" if name == "clear.webp" else "RGB"
        Image.new(mode, size).save(tmp_path / name)
    tiles = [Tile(tmp_path / name, "a name that is far too long for a tile", right=None) for name in sizes]
    sheet = draw(tiles, "title", columns=2)
    assert sheet.mode == "RGB"
    assert not (np.asarray(sheet) == RED).all(axis=-1).any()
    # The clear image is white on the sheet and the others are black.
    assert (np.asarray(sheet) == 0).all(axis=-1).sum() > 96 * 96
