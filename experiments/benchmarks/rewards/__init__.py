"""What DSNAS learns from."""

PLACE = 13
RECORDS = [("rewards.json", "What DSNAS learns from")]
