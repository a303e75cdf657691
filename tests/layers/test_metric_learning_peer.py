"""Heads beside those of pytorch-metric-learning, on the same embeddings and centers."""

import math

import comparing
import numpy as np
import pytest
from comparing import CLASSES
from comparing import DIM
from comparing import problem
from gradients import mean_loss_gradients
from gradients import with_centers
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import CosFace
from keras_arcface.layers import ASoftmax
from keras_arcface.layers import LSoftmax
from keras_arcface.layers import NormSoftmax

# The head, the peer's loss, and what it is called with. Its margins are in degrees, its softmax has temperatures.
PEERS = {
    "ArcFace": (ArcFace(CLASSES, margin=0.5, scale=16.0), "ArcFaceLoss", {"margin": math.degrees(0.5), "scale": 16}),
    "CosFace": (CosFace(CLASSES, margin=0.35, scale=16.0), "CosFaceLoss", {"margin": 0.35, "scale": 16}),
    "norm-softmax": (NormSoftmax(CLASSES, scale=16.0), "NormalizedSoftmaxLoss", {"temperature": 1 / 16}),
    "L-Softmax": (LSoftmax(CLASSES, margin=3, base=0.0), "LargeMarginSoftmaxLoss", {"margin": 3}),
    "A-Softmax": (ASoftmax(CLASSES, margin=4, base=0.0, minimum=0.0), "SphereFaceLoss", {"margin": 4}),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")  # in the peer
@pytest.mark.parametrize("name", PEERS)
def test_loss_and_gradients_equal_pytorch_metric_learning(name):
    torch = pytest.importorskip("torch")
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, labels, centers = problem()
    head, peer, options = PEERS[name]
    cosines = comparing.unit(embeddings) @ comparing.unit(centers).T
    angles = np.arccos(cosines[np.arange(len(labels)), labels])
    assert angles.max() < math.pi - 0.5  # beyond it the peer's ArcFace goes another way on

    theirs = getattr(losses, peer)(num_classes=CLASSES, embedding_size=DIM, **options)
    theirs.W.data = torch.tensor(centers.T.copy())
    tensor = torch.tensor(embeddings, requires_grad=True)
    value = theirs(tensor, torch.tensor(labels))
    value.backward()

    head = with_centers(head, centers)
    ours = float(ops.mean(head.loss(labels, embeddings)))
    found = mean_loss_gradients(head, embeddings, centers, labels)
    errors = [abs(ours / value.item() - 1)]
    for gradient, expected in zip(found, (tensor.grad.numpy(), theirs.W.grad.numpy().T), strict=True):
        errors.append(np.abs(gradient - expected).max() / np.abs(expected).max())
    print(f"{name}: loss {errors[0]:.1e}, gradient by embeddings {errors[1]:.1e}, by centers {errors[2]:.1e}")
    assert max(errors) < 1e-5
