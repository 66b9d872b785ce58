"""The values everything else speaks in: frozen, without behaviour that needs the outside."""
