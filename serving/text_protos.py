"""The configuration files of the server: protocol buffers in text form, read as TensorFlow Serving reads them.

Where the server begins on the way SavedModel -> [server] -> client: which models there are, how they are batched, with
which certificates the ports are opened. Codes and texts are TensorFlow Serving's; its own messages are in
tensorflow_serving.config, those that the package lacks in serving/server_config.proto.
"""

import logging
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from serving.status import invalid, of_file

M = TypeVar("M", bound=Message)

logger = logging.getLogger(__name__)


def read_text_proto(path: str | Path, message: M) -> M:
    """Fills a message from a file and returns it.

    Args:
        path: of the file.
        message: of the type that is expected; the file's fields are merged into it.

    Raises:
        tf.errors.OpError: the file cannot be read (NOT_FOUND "F; No such file or directory"), is empty
            (INVALID_ARGUMENT "F; Invalid argument": TensorFlow maps the file, and no bytes cannot be mapped), or is no
            such message (INVALID_ARGUMENT "Invalid protobuf file: 'F'"; the log says where and why).
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise of_file(error) from error
    if not content:
        raise invalid(f"{path}; Invalid argument")
    try:
        return text_format.Parse(content.decode("utf-8"), message)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        logger.error("Error parsing text-format %s: %s", message.DESCRIPTOR.full_name, error)
        raise invalid(f"Invalid protobuf file: '{path}'") from error
