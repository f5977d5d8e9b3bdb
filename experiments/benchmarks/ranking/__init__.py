"""Accuracy in the supernet against accuracy alone."""

PLACE = 3
RECORDS = [("ranking.json", "Accuracy in the supernet against accuracy alone", "bench_ranking.svg")]
