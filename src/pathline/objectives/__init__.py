"""What is learnt: an objective runs the network, terms only read. The rows are in `table`."""
