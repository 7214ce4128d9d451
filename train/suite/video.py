"""Video: clips are classified from the frozen pooled features of their frames.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from train.evaluation_sets.reading import SET_FILE, EvaluationSet
from train.evaluators.accuracy import guessed
from train.evaluators.grids import Floats, Standard
from train.evaluators.video import averaged, right, temporal_transformer
from train.suite.clips import Sampling, clips, features
from train.suite.context import Context
from train.suite.outcome import Outcome, Plot
from train.suite.protocol import Protocol
from train.suite.rows import Rows

VIDEO = "video/1"


def frozen(context: Context, described: EvaluationSet) -> Iterator[Outcome]:
    """A small transformer over time learns on the frames of the training clips."""
    train, test = described.part("train"), described.part("test")
    targets, wanted, classes = train.targets, test.targets, len(described.classes)
    try:
        sampling = Sampling.of(described.details)
    except ValueError as error:
        raise ValueError(f"{described.folder / SET_FILE}: {error}") from error
    learnt, asked = clips(train), clips(test)
    samples, tests = features(context, learnt, sampling), features(context, asked, sampling)
    standard = Standard.of(samples)
    samples, tests = standard(samples), standard(tests)
    frames, width = samples.shape[2:]
    head = temporal_transformer(width, frames, classes, context.effort.decoder_steps)
    # Each sample of a clip is an example of its own: views and crops are the augmentation.
    params = head.fit((samples.reshape(-1, frames, width),), targets.repeat(samples.shape[1]))
    said = _probabilities(head(params, (tests.reshape(-1, frames, width),)), tests)
    settings = {**head.settings, "frames": frames, "samples of a clip": tests.shape[1], "crops": sampling.crops}
    if sampling.centred:
        settings["features"] = "less their mean over the frames"
    rows = Rows(VIDEO, described)
    yield rows.row("top1", right(said, wanted), guessed(wanted), **settings)
    counts = confusion_matrix(wanted, said.argmax(axis=1), labels=np.arange(classes))
    values = {"classes": list(described.classes), "counts": counts.tolist()}
    yield Plot(VIDEO, described.name, "confusion", "Confusions of clips", values)


def _probabilities(logits: Floats, samples: Floats) -> npt.NDArray[np.float64]:
    """Of clips, of the logits of all their samples."""
    return averaged(logits.reshape(*samples.shape[:2], logits.shape[-1]))


PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        VIDEO,
        "Video, frozen tower",
        "video",
        "Section 4.2, video classification",
        "Top-1 accuracy of a transformer of four blocks over the frozen, standardised pooled features of a clip's "
        "frames, with learned positions in time and a class token; its probabilities are averaged over views x crops "
        "of a clip. Chance is the most frequent class of the test part.",
        frozen,
    ),
)
