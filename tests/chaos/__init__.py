"""Random faults at random times from one seed, and the invariants that hold at the end. See README.md."""
