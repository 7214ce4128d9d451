# A package, so that the folder `tests` that another distribution installs does not stand in for it.
