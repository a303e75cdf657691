"""Training recipes as data, and the model and optimizer of a recipe.

Each recipe is a TOML file of this folder. Its description states the source, the command and the published result.
Results are those of the sources and were not measured with this package, unless stated otherwise.
"""

from typing import TYPE_CHECKING, Any

from keras_arcface.recipes.files import get
from keras_arcface.recipes.files import names
from keras_arcface.recipes.files import save
from keras_arcface.recipes.recipe import Recipe

if TYPE_CHECKING:
    from keras_arcface.recipes.building import build
    from keras_arcface.recipes.building import make_augmentation
    from keras_arcface.recipes.building import make_head
    from keras_arcface.recipes.building import make_optimizer

__all__ = [
    "Recipe",
    "build",
    "get",
    "make_augmentation",
    "make_head",
    "make_optimizer",
    "names",
    "save",
]


def __getattr__(name: str) -> Any:
    """Imports what needs Keras on first access, so that the command line can read recipes without it."""
    if name not in __all__:
        raise AttributeError(f"module 'keras_arcface.recipes' has no attribute {name!r}")
    from keras_arcface.recipes import building

    return getattr(building, name)
