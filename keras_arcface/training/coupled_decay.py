"""Coupled weight decay, an L2 penalty whose gradient is added to that of the loss."""

import re

from keras_arcface import _arguments
from keras_arcface import _private_api


class CoupledDecay:
    """Mixin of optimizers with coupled weight decay.

    Attributes:
        coupled_weight_decay: factor of the L2 penalty. It is not named `weight_decay`, because Keras applies decoupled
            decay by an attribute of this name.
        no_decay: regular expressions of the paths of variables without weight decay.
    """

    def _set_decay(self, weight_decay, no_decay):
        _arguments.check_number("weight_decay", weight_decay, lambda value: value >= 0, "at least 0")
        self.coupled_weight_decay, self.no_decay = weight_decay, list(no_decay)

    def _find_decayed(self, variables):
        self._has_decay = [not any(re.search(pattern, v.path) for pattern in self.no_decay) for v in variables]

    def _add_decay(self, gradient, variable):
        """Returns the gradient of loss and penalty."""
        if self.coupled_weight_decay and self._has_decay[_private_api.variable_index(self, variable)]:
            return gradient + self.coupled_weight_decay * variable
        return gradient

    def _decay_config(self):
        return {"weight_decay": self.coupled_weight_decay, "no_decay": self.no_decay}
