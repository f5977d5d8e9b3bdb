"""A search at ImageNet's size: memory, throughput, processes."""

PLACE = 12
FIRST = True
RECORDS = [("scale.json", "Scale", "bench_scale.svg")]
