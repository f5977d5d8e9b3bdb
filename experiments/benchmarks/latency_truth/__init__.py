"""What a latency table says against what is measured."""

PLACE = 10
FIRST = True
RECORDS = [
    ("latency_truth.json", "Truth of a table", "bench_latency_truth.svg"),
    ("latency_truth_epyc.json", "Truth of a table: another machine"),
]
