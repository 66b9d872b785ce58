"""The real tick over a simulated world: clock, disk, processes and source, with faults."""
