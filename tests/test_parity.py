import json

import numpy as np

from clients import embed
from export import parity


def test_served_vectors_equal_those_of_the_checkpoint(served, tuned, digits, tmp_path, run_program, capsys):
    vectors, output = tmp_path / "v.npz", tmp_path / "parity.json"
    server = ("--address", served.address, "--model", served.model)
    assert run_program(embed.main, embed.Arguments, digits / "heldout", *server, "--output", vectors) == 0
    settings = ("--checkpoint", tuned, "--vectors", vectors, "--output", output)
    assert run_program(parity.compare, parity.Settings, *settings) == 0
    result = json.loads(output.read_text())
    assert result["n"] == 100
    assert 0 < result["max_abs_error_served_vs_jax"] < 1e-5
    assert result["min_cosine"] > 0.99999

    with np.load(vectors) as file:
        values = dict(file)
    values["vectors"][7, 3] += 0.01
    np.savez(tmp_path / "off.npz", **values)
    assert run_program(parity.compare, parity.Settings, "--checkpoint", tuned, "--vectors", tmp_path / "off.npz") == 1
    assert "max abs error 0.01" in capsys.readouterr().out


def test_vectors_of_another_space_are_refused(pretrained, digits, tmp_path, run_program, capsys):
    image = next((digits / "heldout").glob("*.png"))
    np.savez(tmp_path / "v.npz", vectors=np.zeros((1, 128), np.float32), names=[str(image)], space_id="feed", version=1)
    settings = ("--checkpoint", pretrained, "--vectors", tmp_path / "v.npz")
    assert run_program(parity.compare, parity.Settings, *settings) == 2
    assert "the vectors lie in space feed" in capsys.readouterr().err


def test_a_file_of_another_kind_and_images_that_are_gone_are_errors(tuned, tmp_path, run_program, capsys):
    (tmp_path / "v.npz").write_text("no")
    assert run_program(parity.compare, parity.Settings, "--checkpoint", tuned, "--vectors", tmp_path / "v.npz") == 2
    assert "is no .npz of clients/embed.py" in capsys.readouterr().err
    np.savez(tmp_path / "w.npz", vectors=np.zeros((1, 128), np.float32), names=["gone.png"], space_id="s", version=1)
    assert run_program(parity.compare, parity.Settings, "--checkpoint", tuned, "--vectors", tmp_path / "w.npz") == 2
    assert "1 of the images are gone, gone.png is the first" in capsys.readouterr().err
