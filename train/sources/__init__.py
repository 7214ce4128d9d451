"""Where training images come from: one module a kind of storage, each an example.Source; opening.py opens them all."""
