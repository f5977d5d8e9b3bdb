"""How long an exact derivation takes."""

PLACE = 11
FIRST = True
RECORDS = [("budget.json", "Time of an exact derivation")]
