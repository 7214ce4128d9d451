"""The data that a tower is judged on: folders that describe themselves, and the makers that write them.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. `reading.py` has the
formats on disk, which a user's own sets have too; each other module makes sets out of what installs as a package.
"""
