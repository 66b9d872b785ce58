"""The parts that touch the machine: one file implements one port; siblings never import each other."""
