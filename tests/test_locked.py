import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

from train import locked
from train.run import Run
from vit22b.checkpoint import load
from vit22b.embedder import embed_files
from vit22b.execution import Execution
from vit22b.folder import read_folder
from vit22b.program import Interrupted
from vit22b.sharding import make_mesh


@pytest.fixture(scope="module")
def records(digits):
    return read_folder(digits / "heldout").records


@pytest.fixture
def run(tmp_path):
    return Run(workdir=tmp_path / "run", steps=1, batch=1, stop_code=143)


@pytest.fixture
def embed(pretrained, records, run, monkeypatch):
    """Embeds by batches of 32 on 4x2 devices, the last one not full; the batches that the tower ran on go to `ran`."""
    monkeypatch.setattr(locked, "BATCH", 30)
    mesh, ran, real = make_mesh(4, 2), [], locked.embedder

    def counted(*given):
        tower = real(*given)
        return lambda pixels: ran.append(pixels) or tower(pixels)

    monkeypatch.setattr(locked, "embedder", counted)

    def call(records=records, space_id="a" * 16):
        return locked.embeddings(load(pretrained, mesh), space_id, records, run, Execution(mesh=mesh))

    call.ran = ran
    return call


def test_all_devices_embed_what_one_does(embed, pretrained, records):
    np.testing.assert_allclose(embed(), embed_files(load(pretrained), [record.path for record in records]), atol=1e-6)
    assert [pixels.shape[0] for pixels in embed.ran] == [32] * 4
    for pixels in embed.ran:
        assert {shard.data.shape[0] for shard in pixels.addressable_shards} == {8}
        assert pixels.sharding.device_set == set(jax.devices())


def test_what_is_embedded_is_kept_for_the_same_images_and_the_same_space(embed, records, run, tmp_path):
    found = embed()
    del embed.ran[:]
    np.testing.assert_array_equal(embed(), found)
    assert not embed.ran
    np.testing.assert_array_equal(embed(records[:64]), found[:64])
    assert len(embed.ran) == 2
    embed(space_id="b" * 16)
    assert len(embed.ran) == 6
    # Another file by an old name.
    other = tmp_path / "other.png"
    other.write_bytes(records[1].path.read_bytes())
    changed = dataclasses.replace(records[0], path=other)
    np.testing.assert_allclose(embed((changed, *records[1:]))[0], found[1], atol=1e-6)
    assert len(list(run.workdir.glob("*.npy"))) == len(list(run.workdir.iterdir())) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_between_two_batches(embed, run, monkeypatch, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    counted = locked.embedder

    def signalled(*given):
        tower = counted(*given)
        return lambda pixels: (os.kill(os.getpid(), number), tower(pixels))[1]

    monkeypatch.setattr(locked, "embedder", signalled)
    with pytest.raises(Interrupted, match="stopped while the images were embedded, after about 32; ") as stopped:
        embed()
    assert stopped.value.code == 143
    assert len(embed.ran) == 1
    assert not run.workdir.exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
