"""Pictures -> features of a frozen encoder, patch by patch. The rows are in `table`."""
