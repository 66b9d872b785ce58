"""The real tick over a simulated world: clock, disk, processes and source, with faults.

`machine` has time, processes and locks; `disk` what survives them; each port has a file
of its own; `attempts` are the wrappers and what they run.  `faults` breaks things, the
`auditor` says which promise was broken, and `simulation` runs it all from one seed.
"""
