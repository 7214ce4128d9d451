"""What the protocols found, for people and for programs: report.json, report.html, the terminal, comparisons.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Nothing here measures
anything; it is given rows and plots (train/suite/outcome.py) and shows them.
"""
