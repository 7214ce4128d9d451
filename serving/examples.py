"""tf.Examples on the wire: an Input becomes the strings that a classify or regress signature parses.

Between the wire and a loaded version on the way SavedModel -> server -> client.
"""

import numpy as np
from tensorflow_serving.apis import input_pb2

from serving.status import invalid


def serialized(given: input_pb2.Input) -> np.ndarray:
    """The Examples, each serialised: an object array of bytes, [n].

    A context is put in front of every one of them. Two serialised messages one after the other are their merge, so a
    feature of the Example overrides the context's of the same name.

    Raises:
        tf.errors.InvalidArgumentError: there is none.
    """
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        rows = [context + example.SerializeToString() for example in given.example_list_with_context.examples]
    else:
        rows = [example.SerializeToString() for example in given.example_list.examples]
    if not rows:
        raise invalid("Input is empty.")
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array
