"""Imports Apache Beam without the warning that it logs where Google's client library is missing.

As vit22b.quiet does for TensorFlow: a program that uses Beam imports this first.
"""

import logging

logging.disable(logging.WARNING)
try:
    import apache_beam  # noqa: F401
finally:
    logging.disable(logging.NOTSET)
