"""One seed again, as the message of a failed simulation asks for: ``--seed N``."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, help="run only the simulation of this seed")
