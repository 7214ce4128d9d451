"""A life cycle's versions brought about step by step, for the tests."""


def aspire(lifecycle, name, versions):
    """Wants these versions, and manages until that is done or has failed; no thread may manage meanwhile."""
    lifecycle.want(name, versions)
    while lifecycle.step():
        pass
