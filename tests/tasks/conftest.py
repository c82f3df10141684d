"""A tokenizer that the tests of language models share."""

from __future__ import annotations

import pytest
from toys.tasks import with_end_of_text


@pytest.fixture
def words(tokenizer):
    """The toy tokenizer with an end-of-text token, which adds nothing at the beginning."""
    return with_end_of_text(tokenizer)
