"""The part that thinks: pure functions from what was seen to what shall be done."""
