"""What a step of a search costs on choices of values and on cells, as a ratio to a plain step of the network that it runs."""

PLACE = 5.5
FIRST = True
RECORDS = [("values.json", "Cost of a step on choices of values"), ("cells.json", "Cost of a step on cells")]
