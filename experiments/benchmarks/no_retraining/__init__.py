"""DSNAS deployed as it is."""

PLACE = 14
RECORDS = [
    ("no_retraining_digits.json", "DSNAS deployed as it is: digits"),
    ("no_retraining_fashion-mnist.json", "DSNAS deployed as it is: Fashion-MNIST"),
]
