"""The parity gate: imported weights against the implementations that they come from (`make parity`).

    .venv-parity/bin/python tests/parity/run.py

Every case builds a small random model with transformers, timm or onnxruntime, saves it as their users do, imports it
with export/import_weights.py and compares what both answer, in float32. One output off by more than 1e-4 fails it. The
second table compares what their preprocessing and ours make of a picture; the third, netcal's calibration errors
and ours.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import contextlib
import dataclasses
import io
import json
import tempfile
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.table import Table

from export.import_weights import Settings, convert
from tests.parity import (
    big_vision_cases,
    calibration_cases,
    hugging_face_cases,
    onnx_cases,
    pixel_cases,
    timm_cases,
)
from tests.parity.reference import Case, Reference
from vit22b import program
from vit22b.checkpoint import Trained, load
from vit22b.model import abstract, normalise
from vit22b.tokenizer import Tokenizer

TOLERANCE = 1e-4
CASES = (*hugging_face_cases.CASES, *timm_cases.CASES, *big_vision_cases.CASES, *onnx_cases.CASES)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare every family with its own implementation."""

    only: str = ""
    """Runs the cases whose family or model has this in it."""
    output: Path | None = None
    """JSON file to write the results to."""


def main(arguments: Arguments) -> int:
    """Runs the cases, prints the table; 1 where one is off, or could not be compared."""
    jax.config.update("jax_default_matmul_precision", "highest")
    table = Table("family", "model", "compared", "max abs error", "verdict", title="parity of imported weights")
    results = []
    for case in CASES:
        if arguments.only in f"{case.family} {case.model}":
            result, error = judge(case)
            errors = result.get("max_abs_error", {})
            worst = f"{np.max([*errors.values()]):.1e}" if errors else error
            table.add_row(case.family, case.model, ", ".join(errors), worst, result["verdict"])
            results.append(result)
    program.table_console().print(table)
    pixels = [case for case in pixel_cases.CASES if arguments.only in f"pixels {case.name}"]
    results += pixel_cases.report(pixels)
    calibration = [case for case in calibration_cases.CASES if arguments.only in f"netcal {case.name}"]
    results += calibration_cases.report(calibration)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"tolerance": TOLERANCE, "cases": results}, indent=2) + "\n")
    return int(not results or any(result["verdict"] != "ok" for result in results))


def judge(case: Case) -> tuple[dict[str, Any], str]:
    """What becomes of a case, as a row of the results, and the error that ended it."""
    row: dict[str, Any] = {"family": case.family, "model": case.model}
    try:
        errors = compare(case)
    except ValueError as error:  # the import says no to a model that it shall take
        return {**row, "verdict": "REFUSED", "error": str(error)}, str(error)
    except Exception as error:  # noqa: BLE001 (whatever another implementation raises: the rest of the table is wanted)
        traceback.print_exc()
        return {**row, "verdict": "ERROR", "error": repr(error)}, repr(error)
    # np.max has NaN for NaN, which is at most nothing.
    verdict = "ok" if np.max([*errors.values()]) <= TOLERANCE else "OFF"
    return {**row, "max_abs_error": errors, "verdict": verdict}, ""


def compare(case: Case) -> dict[str, float]:
    """The greatest absolute error of each output of a case."""
    with tempfile.TemporaryDirectory() as folder:
        reference = case.make(Path(folder) / "theirs")
        with contextlib.redirect_stdout(io.StringIO()):  # its one line; the table says the rest
            convert(Settings(source=reference.source, output=Path(folder) / "ours", **reference.settings))
        answers = outputs(load(Path(folder) / "ours"), reference)
    errors = {}
    for name, expected in reference.outputs.items():
        assert answers[name].shape == expected.shape, (case.model, name, answers[name].shape, expected.shape)
        assert np.std(expected) > 0.01, (case.model, name, "says nothing")
        errors[name] = float(np.abs(answers[name] - expected).max())
    return errors


def outputs(trained: Trained, reference: Reference) -> dict[str, np.ndarray]:
    """What the imported model answers."""
    graph, _ = abstract(trained.description.config)
    network = nnx.merge(graph, trained.params)
    image = network.embed_image(normalise(reference.pixels, trained.description.preprocess))
    answers = {name: np.asarray(value) for name, value in image.items()}
    if reference.token_ids is None:
        return answers
    texts = network.embed_text(reference.token_ids)["embedding"]
    similarity = np.asarray(network.similarity(image["embedding"], texts))
    if reference.texts:
        encoded = Tokenizer.from_json(trained.description.tokenizer).encode(reference.texts)
        np.testing.assert_array_equal(encoded, reference.token_ids)
    return {**answers, "text_embedding": np.asarray(texts), "similarity": similarity}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    program.run(main, Arguments, __doc__)
