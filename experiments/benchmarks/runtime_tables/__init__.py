"""Whether tables are true in every runtime, and how long they take to build."""

PLACE = 10.5
FIRST = True
RECORDS = [("runtime_tables.json", "Tables of every runtime", "bench_runtime_tables.svg")]
