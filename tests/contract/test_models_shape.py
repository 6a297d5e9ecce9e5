"""One shape of a model that both OpenAI's and Anthropic's own types accept, strictly."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from anthropic.types import ModelInfo
from openai.types import Model
from pydantic import TypeAdapter

from authz import ours


@pytest.fixture(scope="module")
def row() -> Any:
    return json.loads(ours.models(["org/model:tag"]).body)["data"][0]


def test_openais_type(row: Any) -> None:
    theirs = TypeAdapter(Model).validate_json(json.dumps(row), strict=True)
    assert (theirs.id, theirs.object) == ("org/model:tag", "model")


def test_anthropics_type(row: Any) -> None:
    theirs = TypeAdapter(ModelInfo).validate_json(json.dumps(row), strict=True)
    assert (theirs.id, theirs.display_name) == ("org/model:tag", "org/model:tag")
    assert theirs.type == "model"


def test_both_kinds_of_time_are_the_same(row: Any) -> None:
    assert datetime.fromisoformat(row["created_at"]).timestamp() == row["created"]
