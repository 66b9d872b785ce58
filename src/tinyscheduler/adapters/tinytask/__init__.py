"""The task source ``tinytask``: a server of somebody else's, asked over its REST API.

Loaded only where TINYSCHEDULER_SOURCES names it: `requests` takes longer than a tick.
"""
