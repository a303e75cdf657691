import keras
import numpy as np
import pytest

from keras_arcface import AdaFace
from keras_arcface import ArcFace
from keras_arcface import CosFace
from keras_arcface import CurricularFace
from keras_arcface import ElasticFace
from keras_arcface import MagFace
from keras_arcface import MarginProduct
from keras_arcface import UniFace
from keras_arcface.layers import LSoftmax
from keras_arcface.layers import MVSoftmax
from keras_arcface.layers import QMargin
from keras_arcface.layers import SoftmaxProduct
from keras_arcface.layers import WithIntraLoss
from keras_arcface.margins import ClassSizeMargin


@pytest.mark.parametrize(
    "make",
    [
        lambda: ArcFace(1000),
        lambda: CosFace(50, scale=30.0),
        lambda: MarginProduct(1000),
        lambda: ArcFace(1000, warmup_steps=10, initial_scale=16.0),
        lambda: ArcFace(2, scale=8.0),
        lambda: ArcFace(1000, label_smoothing=0.2),
        lambda: MarginProduct(1000, margin=ClassSizeMargin(np.geomspace(1, 1000, 1000).astype(int))),
        lambda: ArcFace(1000, sub_centers=3, scale=16.0),
        lambda: ArcFace(1000, ignored_above=0.1),
        lambda: AdaFace(1000, scale=16.0),
        lambda: MagFace(1000, scale=16.0),
        lambda: ElasticFace(1000, scale=16.0),
        lambda: CurricularFace(1000, scale=16.0),
        lambda: MVSoftmax(1000, scale=16.0),
        lambda: MVSoftmax(1000, scale=16.0, ignored_above=0.1),
        lambda: UniFace(1000, scale=16.0),
        lambda: UniFace(1000, scale=16.0, ignored_above=0.1),
        lambda: QMargin(1000),
        lambda: QMargin(50, alpha=1.1, warmup_steps=10, ignored_above=0.1),
        lambda: QMargin(60_000, alpha=1.1),
    ],
    ids=[
        *("ArcFace", "CosFace", "softmax", "with a warm-up", "two classes", "smoothed"),
        *("class sizes", "sub-centers", "filter", "AdaFace", "MagFace", "ElasticFace", "CurricularFace"),
        *("MV-softmax", "MV-softmax, filter", "UniFace", "UniFace, filter"),
        *("Q-Margin", "Q-Margin, warm-up and filter", "Q-Margin, many classes"),
    ],
)
def test_is_the_loss_of_random_embeddings(make):
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(1)
    head = make()
    labels = generator.integers(0, head.num_classes, 2000)
    losses = head.loss(labels, generator.normal(size=(2000, 128)).astype(np.float32))
    expected, found = head.expected_first_loss(dim=128), float(keras.ops.mean(losses))
    print(f"expected {expected:.3f}, found {found:.3f}")
    assert expected == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("head", [SoftmaxProduct(10), LSoftmax(10), WithIntraLoss(ArcFace(10))], ids=str)
def test_a_head_without_a_scale_is_refused(head):
    with pytest.raises(ValueError, match="Expected: a MarginProduct, such as ArcFace"):
        head.expected_first_loss(128)


def test_more_classes_than_are_drawn():
    """Without a margin and at a small scale it is the logarithm of the number of classes."""
    assert MarginProduct(10_000_000, scale=1e-3).expected_first_loss(dim=64) == pytest.approx(np.log(1e7), rel=1e-3)


def test_a_wrong_margin_changes_the_expected_loss():
    assert ArcFace(1000).expected_first_loss(512) > 1.5 * ArcFace(1000, margin=0.2).expected_first_loss(512)
