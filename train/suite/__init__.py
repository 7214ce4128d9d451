"""The protocols of the paper, run on a tower and its sets: a module a family, each giving the rows of the report.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What a number means is
in train/evaluators/, which knows neither towers nor files; here is what it is computed of.
"""
