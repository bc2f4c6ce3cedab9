"""What a model costs: parameters and multiply-accumulates (`counting`), time and memory (`latency`)."""
