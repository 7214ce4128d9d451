import threading

import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus as Status
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from serving.labels import Labels
from serving.states import States


@pytest.fixture
def states():
    known = States(threading.Event())
    for number in (1, 2):
        known.publish("a", number, Status.AVAILABLE)
    return known


def model(**labels):
    return ModelConfig(name="a", version_labels=labels)


def set_to(labels, states, config, *, unavailable=False):
    labels.set(labels.check([config], states, unavailable=unavailable))


def test_labels_are_set_moved_and_dropped_with_the_configuration(states):
    labels = Labels()
    set_to(labels, states, model(stable=1, canary=2))
    assert (labels.version("a", "stable"), labels.version("a", "canary")) == (1, 2)
    set_to(labels, states, model(stable=2))
    assert labels.version("a", "stable") == 2
    for name, label in (("a", "canary"), ("b", "stable")):
        with pytest.raises(tf.errors.InvalidArgumentError) as refused:
            labels.version(name, label)
        assert refused.value.message == f"Unrecognized servable version label: {label}"


def test_a_version_that_is_not_available_gets_no_label(states):
    labels = Labels()
    set_to(labels, states, model(stable=1))
    with pytest.raises(tf.errors.FailedPreconditionError) as refused:
        labels.check([model(stable=9)], states, unavailable=False)
    assert refused.value.message == (
        "Request to assign label to version 9 of model a, which is not currently available for inference"
    )
    states.publish("a", 1, Status.END)
    with pytest.raises(tf.errors.FailedPreconditionError):  # not even the one that it has
        labels.check([model(stable=1)], states, unavailable=False)


def test_with_the_flag_a_new_label_gets_one_and_one_that_is_there_does_not_move_to_it(states):
    labels = Labels()
    set_to(labels, states, model(stable=9), unavailable=True)
    assert labels.version("a", "stable") == 9
    set_to(labels, states, model(stable=9), unavailable=True)
    with pytest.raises(tf.errors.FailedPreconditionError):
        labels.check([model(stable=8)], states, unavailable=True)
    set_to(labels, states, model(stable=2), unavailable=True)
    assert labels.version("a", "stable") == 2
