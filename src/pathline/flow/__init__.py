"""The mathematics of flows: paths, times, couplings, solvers, guidance; no network in sight."""
