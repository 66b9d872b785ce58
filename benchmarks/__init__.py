"""How fast is it?  Ratios, both sides measured in turns; never a timed test."""
