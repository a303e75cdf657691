"""Recognition of a network by the names and shapes of its arrays."""

from keras_arcface.pretrained.layouts import edgeface
from keras_arcface.pretrained.layouts import iresnet
from keras_arcface.pretrained.layouts import mobilefacenet
from keras_arcface.pretrained.layouts import mobilenet
from keras_arcface.pretrained.layouts import vit
from keras_arcface.pretrained.layouts.layout import Network
from keras_arcface.pretrained.weights import UnsupportedFileError
from keras_arcface.pretrained.weights import Weights

LAYOUTS = (
    iresnet.ARCFACE_TORCH,
    iresnet.CVLFACE,
    mobilefacenet.ARCFACE_TORCH,
    vit.ARCFACE_TORCH,
    edgeface.EDGEFACE,
    mobilenet.SFACE,
)


def recognize(weights: Weights, synchronized: bool) -> Network:
    """Builds the network that belongs to the weights.

    Args:
        weights: weights of the file.
        synchronized: whether BatchNorm is synchronized over replicas.

    Returns:
        The `Network`.

    Raises:
        UnsupportedFileError: if the weights are those of no known network, lack an array of the network, contain one of
            another shape, or have too many blocks. All are checked before the network is built, so that a network is
            not larger than its file.
    """
    for layout in LAYOUTS:
        if all(name in weights for name in layout.markers):
            return layout.build(weights, synchronized)
    known = "; ".join(f"{layout.name} ({', '.join(layout.markers)}, ...)" for layout in LAYOUTS)
    raise UnsupportedFileError(
        f"expected the arrays of one of these networks: {known}. Received: {len(weights)} arrays, among them "
        f"{', '.join(sorted(weights)[:5]) or 'none'}"
    )
