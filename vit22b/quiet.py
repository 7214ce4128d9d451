"""Imports TensorFlow without the lines that its libraries print on start; a program that uses it imports this first.

Those lines say that there is no GPU driver, as an error, on every machine without one. They are written before any
log level is read, so the descriptor itself is turned away while the import runs; where it fails, what was held back is
shown.
"""

import os
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")


def _import_tensorflow() -> None:
    with tempfile.TemporaryFile() as held_back:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            held_back.seek(0)
            os.write(kept, held_back.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


_import_tensorflow()
