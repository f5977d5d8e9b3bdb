"""What is left of the speed on a machine that others use too."""

PLACE = 9
FIRST = True
RECORDS = [("busy.json", "A machine that others use too")]
