"""What training, sampling and evaluation of a run share: its folder, data, feed and hooks."""
