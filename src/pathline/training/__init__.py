"""Learning: players, the loop, what happens beside it, and state that is kept."""
