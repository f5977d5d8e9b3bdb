"""How the latencies of the same networks agree between runtimes."""

PLACE = 10.7
FIRST = True
RECORDS = [("runtime_ranks.json", "The same networks in every runtime", "bench_runtime_ranks.svg")]
