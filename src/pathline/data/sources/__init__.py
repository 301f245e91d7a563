"""Where pictures come from. The rows are in `rows`."""
