"""The ledger of a running gate, as an operator asks for it: exported, verified, tampered with."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from peers.client import CHAT, call
from peers.recorder import Recorder
from peers.stack import Stack, StartStack

CATALOG = """\
models:
  recorder:
    price: {input: 1, output: 2}
    context_tokens: 1000
    max_output_tokens: 100
default: {price: {input: 0.5, output: 1.5}, context_tokens: 131072, max_output_tokens: 4096}
plans: {test: {account_budget_usd: 100}}
default_plan: test
"""
CALLS = 6
COST_NANOUSD = 7 * 1000 + 2 * 2000  # what the recorder says of each call, at these prices


@pytest.fixture(scope="module")
def gate(start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A gate of this module's own: a hand in its database is felt by all who share it."""
    recorder = Recorder()
    try:
        return start_stack(recorder.address, catalog=CATALOG)
    finally:
        _RECORDERS.append(recorder)


_RECORDERS: list[Recorder] = []
