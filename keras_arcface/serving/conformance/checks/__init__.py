"""The checks, in the order in which they run."""

from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.checks import batches
from keras_arcface.serving.conformance.checks import embeddings
from keras_arcface.serving.conformance.checks import encoded_images
from keras_arcface.serving.conformance.checks import protocols
from keras_arcface.serving.conformance.checks import signatures
from keras_arcface.serving.conformance.checks import versions
from keras_arcface.serving.conformance.checks import warmup

CHECKS: tuple[Check, ...] = (
    *versions.CHECKS,
    *signatures.CHECKS,
    *embeddings.CHECKS,
    *encoded_images.CHECKS,
    *batches.CHECKS,
    *warmup.CHECKS,
)
PROTOCOL_CHECKS: tuple[Check, ...] = protocols.CHECKS
