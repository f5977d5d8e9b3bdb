"""What 648 choices cost whoever searches them: seconds of what is done once, microseconds of a step."""

PLACE = 5.6
FIRST = True
RECORDS = [("many_choices.json", "648 choices")]
