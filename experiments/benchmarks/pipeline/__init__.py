"""What a step in stages takes, in time and in memory, by the number of processes."""

PLACE = 12.5
FIRST = True
RECORDS = [("pipeline.json", "A network in stages")]
