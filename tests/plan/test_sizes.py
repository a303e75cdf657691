"""Numbers of bytes as text."""

import pytest

from keras_arcface import plan


@pytest.mark.parametrize("text", ["", "K", "ten", "-1G", "nan", "infG"])
def test_a_wrong_size_is_refused(text):
    with pytest.raises(ValueError, match=r"text must be|could not convert"):
        plan.parse_size(text)
