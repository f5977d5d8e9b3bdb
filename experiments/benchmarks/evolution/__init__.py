"""Evolution within bounds, against draws and NNI's own evolution, in a space of which every network was trained by others."""

PLACE = 1.75
RECORDS = [("evolution.json", "Evolution within a bound", "bench_evolution.svg")]
