"""What a whole small search takes beside its steps."""

PLACE = 6
FIRST = True
RECORDS = [("search_overhead.json", "A whole small search by its steps")]
