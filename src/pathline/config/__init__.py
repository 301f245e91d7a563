"""Settings: what a run is, where each value came from. Imports no torch."""
