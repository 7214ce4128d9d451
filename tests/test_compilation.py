import dataclasses
import gzip
import json

import jax
import pytest

from train import compilation
from train.abstract_step import Planned
from train.compilation import Program, _key, compile_step
from train.compute import Compute
from vit22b import topology
from vit22b.chips import tpu

RUN = Planned(
    size="mu", topology="v5p:2x2x2", batch=16, classes=10, compute=Compute(mesh="4x2", dtype="float32", remat="full")
)


@pytest.fixture
def on_cpu(monkeypatch):
    """The planned chips are this process's eight fake ones, and the compiler counts what it is asked."""
    compiled = []

    def compile_(lowered, flops):
        compiled.append(lowered.as_text())
        return Program(flops, 1.0, 2, 3, "HloModule", "")

    monkeypatch.setattr(topology, "devices", lambda _: jax.devices())
    monkeypatch.setattr(topology, "open_axes", lambda *_: {"model"})  # which asks where on a torus a device is
    monkeypatch.setattr(compilation, "_compile", compile_)
    monkeypatch.setattr(compilation.importlib.metadata, "version", lambda _: "1.0")  # libtpu need not be there
    return compiled


def test_one_question_has_one_key_and_another_another(monkeypatch):
    monkeypatch.setattr(compilation.importlib.metadata, "version", lambda _: "1.0")
    chip, text, name = tpu("v5p"), "module {}", "v5p:1x1x2"
    options = dict(reversed(chip.compiler_options.items()))
    assert _key(text, name, chip, [0, 1]) == _key(
        text, name, dataclasses.replace(chip, compiler_options=options), [0, 1]
    )
    others = [
        ("module { }", name, chip, [0, 1]),
        (text, "v5p:1x2x1", chip, [0, 1]),
        (text, name, dataclasses.replace(chip, compiler_options={**options, "new": "true"}), [0, 1]),
        (text, name, dataclasses.replace(chip, config_name="megacore"), [0, 1]),
        (text, name, chip, [1, 0]),
    ]
    keys = {_key(text, name, chip, [0, 1]), *(_key(*asked) for asked in others)}
    monkeypatch.setattr(compilation.importlib.metadata, "version", lambda _: "1.1")
    assert len(keys | {_key(text, name, chip, [0, 1])}) == 7


def test_another_order_of_the_devices_is_compiled_anew(on_cpu, tmp_path, monkeypatch):
    compile_step(RUN, tmp_path)
    monkeypatch.setattr(topology, "devices", lambda _: jax.devices()[::-1])
    compile_step(RUN, tmp_path)
    assert on_cpu[0] == on_cpu[1], "the text does not have it"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_asked_before_is_not_compiled_again(on_cpu, tmp_path):
    first = compile_step(RUN, tmp_path)
    assert compile_step(RUN, tmp_path) == first
    assert len(on_cpu) == 1
    compile_step(RUN.with_compute(remat="dots"), tmp_path)
    assert len(on_cpu) == 2
    assert [path.suffixes for path in tmp_path.iterdir()] == [[".json", ".gz"]] * 2


@pytest.mark.usefixtures("on_cpu")
def test_the_flops_are_counted_anew_and_not_those_of_the_cache(tmp_path):
    flops = compile_step(RUN, tmp_path).flops
    (path,) = tmp_path.iterdir()
    kept = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps({**kept, "flops": 1, "seconds": 5.0}).encode()))
    found = compile_step(RUN, tmp_path)
    assert (found.flops, found.seconds) == (flops, 5.0)
