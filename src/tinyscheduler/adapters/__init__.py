"""The parts that touch the machine: one file implements one port; siblings are strangers."""
