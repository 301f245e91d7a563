"""Words or labels -> Cond. The rows are in `table`."""
