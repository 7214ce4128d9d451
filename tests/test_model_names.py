import pytest

from serving.call import Call
from serving.model_names import OTHER, ModelNames


@pytest.fixture
def names():
    return ModelNames()


def name(names, model, **fields):
    return names.of(Call("Predict", "REST", model=model, **fields))


def test_a_few_names_that_no_model_has_are_shown_and_the_rest_is_one(names):
    own = [f"m{number}" for number in range(20)]
    assert [name(names, model) for model in own] == own
    assert {name(names, f"n{number}") for number in range(100)} == {OTHER}
    assert [name(names, model) for model in own] == own


def test_no_made_up_name_takes_the_place_of_a_models(names):
    served = []
    names.follow(lambda: served)
    for number in range(100):
        name(names, f"m{number}")
    assert name(names, "vit") == OTHER
    served.append("vit")
    assert name(names, "vit") == name(names, "vit", refused="key") == "vit"
    served.clear()
    assert name(names, "vit") == "vit"  # its series are there


def test_a_call_that_is_refused_and_a_name_without_end_add_none(names):
    for model in ("m", "n", "o") * 20:
        assert name(names, model, refused="key") == OTHER
    assert name(names, "m" * 257) == OTHER
    assert name(names, "") == name(names, "", refused="key") == ""
    assert name(names, "m") == "m"
