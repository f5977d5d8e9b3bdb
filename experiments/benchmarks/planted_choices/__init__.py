"""Searches of spaces in which a width, a depth or an operation of a cell is planted."""

PLACE = 2.1
RECORDS = [
    ("width.json", "A planted width"),
    ("depth.json", "A planted depth"),
    ("cell.json", "Planted operations of a cell"),
]
