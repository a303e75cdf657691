import re

import pytest

from keras_arcface import _optional

MESSAGE = "plot_roc requires absent_module. Install it with: pip install 'keras-arcface[plots]'"


def test_a_missing_module_is_named_with_its_extra():
    with pytest.raises(ModuleNotFoundError, match=re.escape(MESSAGE)), _optional.optional_import("plots", "plot_roc"):
        import absent_module  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=re.escape(MESSAGE)):
        _optional.require("absent_module", "plots", "plot_roc")


def test_an_installed_module_passes():
    with _optional.optional_import("plots", "plot_roc"):
        import json  # noqa: F401
    _optional.require("json", "plots", "plot_roc")
