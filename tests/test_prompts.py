import numpy as np
import pytest

from vit22b.prompts import DIGIT_CAPTIONS, TEMPLATES, canonical, class_bank, find_templates, prompts


def test_digits_are_tested_with_a_template_that_training_never_saw():
    assert set(DIGIT_CAPTIONS).isdisjoint(TEMPLATES["digits"])
    assert len(set(DIGIT_CAPTIONS)) == len(DIGIT_CAPTIONS) > 3


@pytest.mark.parametrize("template", [*DIGIT_CAPTIONS, *(text for texts in TEMPLATES.values() for text in texts)])
def test_every_template_of_ours_has_one_place(template: str):
    assert prompts(["seven"], [template])[0][0].count("seven") == 1


def test_prompts_keep_both_orders():
    made = prompts(["Golden_Retriever", "cat"], ["a {}", "{} {{x}"])
    assert made == [["a golden retriever", "golden retriever {{x}"], ["a cat", "cat {{x}"]]


@pytest.mark.parametrize("name", ["golden retriever", "Golden_Retriever", "  golden__RETRIEVER "])
def test_spellings_of_one_class(name: str):
    assert canonical(name) == "golden retriever"


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], ["{}"], "class list is empty"),
        (["a"], [], "template list is empty"),
        (["a", "  "], ["{}"], "empty name"),
        (["a b", "A_b"], ["{}"], "'A_b' and 'a b', which are one class"),
        (["a"], ["no place"], "0 times"),
        (["a"], ["{} and {}"], "2 times"),
        ("cat", ["{}"], "bare string"),
        (["a"], "{}", "bare string"),
    ],
)
def test_what_makes_no_prompts(classes, templates, message):
    with pytest.raises(ValueError, match=message):
        prompts(classes, templates)


def test_templates_are_found_by_text_and_by_set():
    assert find_templates(["a {}", "digits"]) == ("a {}", *TEMPLATES["digits"])
    for given, message in [(["emoji"], "the sets: digits, general, name"), ([], "no templates"), (["{}{}"], "2 times")]:
        with pytest.raises(ValueError, match=message):
            find_templates(given)


def test_a_bank_is_of_unit_vectors_whatever_the_lengths():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(3, 4, 5))
    bank = class_bank(vectors)
    assert bank.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(class_bank(vectors * random.uniform(0.1, 9, (3, 4, 1))), bank, atol=1e-6)
    np.testing.assert_allclose(class_bank(vectors[:, ::-1]), bank, atol=1e-6)


def test_the_bank_of_one_prompt_is_its_unit_vector():
    np.testing.assert_allclose(class_bank([[[3.0, 4.0]]]), [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("vectors", [np.zeros((1, 1, 2)), np.full((1, 1, 2), np.nan), [[[1.0, 0], [-1.0, 0]]]])
def test_a_vector_that_points_nowhere_is_refused(vectors):
    with pytest.raises(ValueError, match="points nowhere"):
        class_bank(vectors)


@pytest.mark.parametrize("shape", [(2, 3), (0, 1, 2), (2, 0, 3)])
def test_the_shape_of_a_bank_is_checked(shape):
    with pytest.raises(ValueError, match="expected"):
        class_bank(np.ones(shape))
