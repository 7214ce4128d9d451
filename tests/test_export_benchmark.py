import json

import pytest

from benchmarks import export
from benchmarks.export import Settings, write_checkpoint
from tests.documented import documented, fields
from vit22b import model
from vit22b.checkpoint import load
from vit22b.config import ModelConfig, vit
from vit22b.tree import leaves


@pytest.mark.slow
def test_the_report_has_what_a_conversion_took_and_how_fast_the_version_is(tmp_path):
    output = tmp_path / "bench" / "export.json"
    export.main(Settings(output, sizes=("mu",), weights=("float32",), rounds=1, scratch=tmp_path))
    report = json.loads(output.read_text())
    assert documented("build/bench/export.json") == fields(report)
    (found,) = report["sizes"]
    (conversion,) = found["conversions"]
    assert conversion["peak_bytes"] > conversion["weight_bytes"] > 0
    assert 0 < conversion["saved_model_pb_bytes"] < 8 * 2**20
    assert [each["batch"] for each in found["serving"]] == [8, 32]
    assert not list(tmp_path.glob("tmp*"))


def test_a_checkpoint_of_random_weights_is_an_ordinary_one(tmp_path):
    config = ModelConfig(vit("Ti", depth=2))
    write_checkpoint(config, tmp_path)
    params = leaves(load(tmp_path).params)
    shapes = leaves(model.abstract(config)[1])
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in shapes.items()}
    assert all(leaf.any() for leaf in params.values())


def test_an_unknown_size_is_an_error_before_anything_is_written():
    with pytest.raises(ValueError, match="unknown size 'H22'"):
        Settings(sizes=("H22",))
