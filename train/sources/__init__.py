"""Where training images come from: one module a kind of storage, each a train.sources.example.Source; opening.py has them all."""
