"""Networks by name: (x, t, cond, call) -> Output. The rows are in `table`."""
