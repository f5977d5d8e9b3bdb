"""Networks for different targets."""

PLACE = 4
RECORDS = [("specialization.json", "Networks for different targets", "bench_specialization.svg")]
