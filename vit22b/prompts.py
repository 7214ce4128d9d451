"""Class names -> prompts -> class bank: what makes a classifier of a text tower (Radford et al. 2021, section 3.1.4).

Stands at both ends of the walk: LiT makes captions for labelled digits with DIGIT_CAPTIONS, the zero-shot client makes
prompts. A template is a text with one `{}`, the place of the class's name.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

PLACE = "{}"

# What LiT may say of a digit. The template that digits are tested with is none of these, so that a test also shows that
# the text tower reads the name and has not learnt a sentence by heart.
DIGIT_CAPTIONS = (
    "a photo of the digit {}.",
    "a picture of the number {}.",
    "the handwritten digit {}.",
    "an image of a handwritten {}.",
    "a drawing of the numeral {}.",
    "the number {} in white on black.",
    "someone wrote the number {}.",
    "a scan of a {} written by hand.",
)

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digits": ("an image of the handwritten number {}.",),
        "general": (
            "a photo of a {}.",
            "a photo of the {}.",
            "a close-up photo of a {}.",
            "a blurry photo of a {}.",
            "a bright photo of a {}.",
            "a drawing of a {}.",
            "a picture of one {}.",
            "a picture of several {}.",
        ),
        "name": ("{}",),
    }
)


def canonical(name: str) -> str:
    """A class's name as it is read: underscores are blanks, runs of blanks are one, letters are small.

    Two spellings of one class, `Golden_Retriever` of a folder and `golden retriever` of a class list, are equal in this
    form.
    """
    return " ".join(name.replace("_", " ").split()).lower()


def read_names(path: Path) -> list[str]:
    """The class names of a file that has one a line; empty lines are passed over.

    Raises:
        ValueError: there is no such file, or it is no text.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected one with a class name a line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; expected a class name a line") from error
    return [line.strip() for line in lines if line.strip()]


def check_template(template: str) -> None:
    """Raises ValueError unless the template holds exactly one `{}`."""
    found = template.count(PLACE)
    if found != 1:
        raise ValueError(
            f"the template {template!r} holds {found} times {{}}; expected one, for instance 'a photo of a {{}}.'"
        )


def find_templates(given: Sequence[str]) -> tuple[str, ...]:
    """The templates that a user asked for, in the order given.

    Args:
        given: each is a template, or the name of a set in TEMPLATES.

    Raises:
        ValueError: nothing given, or a text that is neither.
    """
    if not given:
        raise ValueError(f"there are no templates; give texts with {{}}, or a set: {', '.join(TEMPLATES)}")
    found: list[str] = []
    for text in given:
        if text in TEMPLATES:
            found.extend(TEMPLATES[text])
        elif PLACE in text:
            check_template(text)
            found.append(text)
        else:
            raise ValueError(
                f"{text!r} is no template (it has no {{}}) and no set of them; the sets: {', '.join(TEMPLATES)}"
            )
    return tuple(found)


def prompts(classes: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Every class in every template.

    Args:
        classes: k names; they are put in their canonical form.
        templates: t texts with one `{}` each.

    Returns:
        k lists of t texts, in the order of the arguments.

    Raises:
        ValueError: no classes or no templates, an empty name, two names that are one class, a template without one
            `{}`.
    """
    if isinstance(classes, str) or isinstance(templates, str):
        raise ValueError("expected lists of class names and of templates, got a bare string")
    if not classes:
        raise ValueError("the class list is empty; expected at least one class name")
    if not templates:
        raise ValueError("the template list is empty; expected at least one, for instance 'a photo of a {}.'")
    for template in templates:
        check_template(template)
    seen: dict[str, str] = {}
    for name in classes:
        key = canonical(name)
        if not key:
            raise ValueError(f"the class list holds an empty name, {name!r}; leave it out")
        if key in seen:
            raise ValueError(f"the class list holds {name!r} and {seen[key]!r}, which are one class; leave one out")
        seen[key] = name
    return [[template.replace(PLACE, key) for template in templates] for key in seen]


def embedded(
    classes: Sequence[str], templates: Sequence[str], embed: Callable[[list[str]], npt.ArrayLike]
) -> npt.NDArray[np.float32]:
    """The class bank of names and templates.

    Args:
        classes, templates: as `prompts` takes them.
        embed: texts, all prompts in one list, to their embeddings [k t, d].

    Returns:
        float32 [k, d]; see class_bank.

    Raises:
        ValueError: see prompts and class_bank.
    """
    rows = prompts(classes, templates)
    vectors = np.asarray(embed([text for row in rows for text in row]))
    return class_bank(vectors.reshape(len(rows), len(templates), -1))


def class_bank(embeddings: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """One vector for each class: the mean of its prompts' unit vectors, scaled to unit length.

    Args:
        embeddings: [k, t, d], k classes by t prompts; of any length, they are scaled to 1 first.

    Returns:
        float32 [k, d]; its product with an image's embedding [d] is the cosine with each class.

    Raises:
        ValueError: another shape, a vector of length 0 or not finite, or prompts that cancel each other out.
    """
    vectors = np.asarray(embeddings, np.float32)
    if vectors.ndim != 3 or 0 in vectors.shape:
        raise ValueError(
            f"embeddings has the shape {vectors.shape}; expected [classes, prompts, width], none of them 0"
        )
    return _unit(_unit(vectors).mean(axis=1))


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 1e-6)).all():
        raise ValueError("a prompt's or a class's vector is not finite or has the length 0, so that it points nowhere")
    return vectors / lengths
