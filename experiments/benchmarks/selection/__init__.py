"""Ways to use a noisy verdict on networks, against each other and against chance."""

PLACE = 1.7
RECORDS = [("selection.json", "Ways to select a network by a noisy judge", "bench_selection.svg")]
