def figures(architecture):
    return str(architecture.latency)
