"""What a search on ImageNet would cost."""

PLACE = 8
FIRST = True
RECORDS = [("search_hours.json", "Cost of a whole search")]
