"""The composition root: it alone knows which adapters there are.

Apart by what a command needs, because start-up is what a user waits for: `add` wires a
queue and no tick.
"""
