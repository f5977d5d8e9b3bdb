"""How long commands take that write two files, check one, or refuse."""

PLACE = 7
FIRST = True
RECORDS = [("start_up.json", "Commands that answer at once")]
