"""Searches of spaces whose best network is known."""

PLACE = 2
RECORDS = [("known_answer.json", "Spaces whose best network is known", "bench_known_answer.svg")]
