"""What one step of a search costs, as a ratio to a plain training step of the network that it runs."""

PLACE = 5
FIRST = True
RECORDS = [
    ("step_cost.json", "Cost of a step", "bench_step_cost.svg"),
    ("step_cost_sweep.json", "Cost over layers and pixels"),
]
